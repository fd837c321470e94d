// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Writes the inputs that fuzzing starts from: streams of the real encoder with
// every kind of page, a few orders of operations for each of the other harnesses, and
// the words of gangd's messages and of plans for libFuzzer's -dict.

#include <filesystem>
#include <fstream>

#include "directory.h"
#include "encoder.h"
#include "fuzz_store.h"

using namespace gang;
using namespace gang::fuzz;

namespace {

void Write(const std::filesystem::path &path, const test::Bytes &bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char *>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    Check(out.good(), "the corpus can be written");
}

// A VM's stream to a store whose first slots hold contents 100 to 107.  `choice`: the
// first byte, as decoder_fuzz.cc reads it.
test::Bytes Stream(const EncoderOptions &options, const std::vector<std::vector<uint64_t>> &packets,
                   uint8_t choice) {
    DirectoryConfig config;
    config.hash_kind = KindOf(choice);
    config.seed = kSeed;
    config.gang_pages = 1024;
    config.store_slots = kSlots;
    config.mirror_pages = kSlots;
    test::Fd fd;
    std::unique_ptr<Directory> directory;
    Check(Directory::Create(config, fd.out()).ok(), "a directory can be made");
    Check(Directory::Open(fd.get(), &directory).ok(), "it can be opened");
    uint32_t publisher = 0, member = 0;
    Check(directory->AddMember(1, &publisher).ok(), "members can join");
    Check(directory->AddMember(1, &member).ok(), "members can join");

    test::GuestMemory memory(kPages);
    const std::vector<uint64_t> offsets = memory.offsets();
    for (uint32_t i = 0; i < kFilled; i++) {
        test::FillPage(memory.page(i), 100 + i);
    }
    auto count = [&](size_t pages) {
        for (size_t i = 0; i < pages; i++) {
            Hash hash = directory->hasher()(memory.page(i), kPageSize);
            directory->Count(hash);
            directory->Count(hash);
            directory->CountFeatures(FeaturesOf(memory.page(i)));
            directory->CountFeatures(FeaturesOf(memory.page(i)));
        }
    };
    count(kFilled);
    std::unique_ptr<Encoder> first, encoder;
    EncodedPacket packet;
    Check(Encoder::Create(directory.get(), nullptr, publisher, 0, options, &first).ok() &&
              first
                  ->Encode("a", nullptr, memory.data(), offsets.data(), kFilled, nullptr, nullptr,
                           &packet)
                  .ok(),
          "pages can be published");
    directory->SetAcked(publisher, 0, 1);

    test::Bytes stream = {choice};
    Check(Encoder::Create(directory.get(), nullptr, member, 0, options, &encoder).ok(),
          "an encoder can be made");
    for (size_t n = 0; n < packets.size(); n++) {
        for (size_t i = 0; i < packets[n].size(); i++) {
            test::FillPage(memory.page(i), packets[n][i]);
        }
        if (n % 2) { // otherwise literal
            count(packets[n].size());
        }
        Check(encoder
                  ->Encode(n % 3 == 2 ? "b" : "a", nullptr, memory.data(), offsets.data(),
                           packets[n].size(), test::IsZero, nullptr, &packet)
                  .ok(),
              "pages can be encoded");
        test::Bytes bytes = test::Flatten(packet);
        stream.insert(stream.end(), bytes.begin(), bytes.end());
        directory->SetAcked(member, 0, static_cast<uint32_t>(n + 1));
    }
    return stream;
}

// The same operations of shared_memory_fuzz.cc or return_path_fuzz.cc on a gang of
// either hash.
void WriteOperations(const std::filesystem::path &dir, const std::string &name,
                     const test::Bytes &operations) {
    for (uint8_t choice : {0, 2}) {
        test::Bytes input = {choice};
        input.insert(input.end(), operations.begin(), operations.end());
        Write(dir / (name + (choice ? "-sha256" : "")), input);
    }
}

test::Bytes BytesOf(const std::string &text) {
    return test::Bytes(text.begin(), text.end());
}

void Append(test::Bytes *to, const test::Bytes &more) {
    to->insert(to->end(), more.begin(), more.end());
}

// A VM that scans, sends and writes, beside members that publish and scribble.
void WriteCodecOperations(const std::filesystem::path &dir) {
    test::Bytes clone;
    for (uint8_t page = 0; page < 8; page++) { // pages in pairs of equal content
        Append(&clone, {12, page, 0, static_cast<uint8_t>(20 + page / 2)});
    }
    Append(&clone, {13, 14, 0, 7, 0, 14, 0, 7, 0});
    test::Bytes similar;
    for (uint8_t page = 0; page < 8; page++) {
        Append(&similar, {12, page, 1, page});
    }
    Append(&similar, {13, 14, 0, 3, 0, 14, 4, 3, 1, 15, 0, 14, 4, 3, 0, 15, 255});
    test::Bytes rewritten = clone; // last versions
    Append(&rewritten, {12, 1, 1, 3, 14, 0, 3, 0, 12, 1, 1, 4, 14, 0, 3, 0});
    test::Bytes scribbled = similar; // over chunk owners and the mirror
    Append(&scribbled, {0, 64, 32, 1, 8, 0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 64, 2, 4, 255, 255,
                        255, 255, 14, 0, 3, 0, 2, 13, 14, 0, 7, 0});
    WriteOperations(dir, "clone", clone);
    WriteOperations(dir, "similar", similar);
    WriteOperations(dir, "rewritten", rewritten);
    WriteOperations(dir, "scribbled", scribbled);
}

void WriteGangd(const std::filesystem::path &dir) {
    // Requests as gangd_fuzz.cc makes them: kind and gang, member, its own, change.
    const test::Bytes hello = {0, 0, 0}, leave = {4, 0, 0}, scanned = {3, 0, 0},
                      status = {5, 0, 0, 0};
    auto join = [](uint8_t member, uint8_t hash = 0) {
        return test::Bytes{static_cast<uint8_t>(1 | hash << 6), member, 1, 0, 0};
    };
    test::Bytes alone = {1}; // a coordinator alone: two sources, scan, status, leave
    for (uint8_t client : {0, 1}) {
        Append(&alone, {client, 2});
        Append(&alone, join(client));
    }
    Append(&alone, {0, 1, 200, 0}); // the clock
    for (const test::Bytes &request : {scanned, status, leave}) {
        for (uint8_t client : {0, 1}) {
            Append(&alone, {client, 2});
            Append(&alone, request);
        }
    }
    Append(&alone, {2, 2, 2, 2, 0, 3, 2, 2, 3, 0, 2, 2, 4, 0, 0, 3, 0, 1, 1, 255, 255, 0, 0});
    test::Bytes again = {1}; // two sources and a destination hand back, one joins, scribbles
    for (uint8_t client : {0, 1}) {
        Append(&again, {client, 2, 129, client, 1, 0, client, 0});
    }
    Append(&again, {2, 2, 130, 2, 0});
    Append(&again, {3, 2});
    Append(&again, join(3));
    Append(&again, {0, 64, 200, 0, 4, 9, 9, 9, 9, 4, 2});
    Append(&again, status);
    test::Bytes served = {0};
    for (uint8_t client : {0, 1}) {
        Append(&served, {client, 0, client, 5});
        Append(&served, hello);
        Append(&served, {client, 5});
        Append(&served, join(client));
        Append(&served, {client, 4});
    }
    for (uint8_t client : {0, 1}) { // hello and directory are read, the latter scribbled upon
        Append(&served, {client, 3, 0, 0, 0, client, 3, 130, 1, 4, 9, 9, 9, 9, client, 5});
        Append(&served, scanned);
    }
    Append(&served, {0, 4, 1, 5});
    Append(&served, status);
    test::Bytes text = {0, 0, 0};
    for (const std::string &message :
         {std::string(R"({"op": "hello", "version": 1, "layout": ")") +
              "0123456789abcdef\"}",
          std::string(R"({"op": "status", "after": "0"})"), std::string("[[[[1]]]]")}) {
        Append(&text, {0, 2, static_cast<uint8_t>(message.size()), 0});
        Append(&text, BytesOf(message));
        Append(&text, {0, 4});
    }
    test::Bytes sha256 = {1, 0, 2}; // alone by SHA-256, then one that asks for the other
    Append(&sha256, join(0, 1));
    Append(&sha256, {1, 2});
    Append(&sha256, join(1));
    Append(&sha256, {0, 1, 232, 3});
    Write(dir / "alone", alone);
    Write(dir / "again", again);
    Write(dir / "served", served);
    Write(dir / "sha256", sha256);
    Write(dir / "text", text);
}

void WriteReturnPath(const std::filesystem::path &dir) {
    // First, whether the store was kept.
    // Greeted, joined, scanned, started; two packets on each channel, acknowledged.
    test::Bytes run = {0, 1, 8, 5, 0, 8, 8, 10, 6, 8, 8};
    for (uint8_t channel : {0, 16, 0, 16}) {
        Append(&run, {static_cast<uint8_t>(channel + 11), 1, 7});
    }
    for (uint8_t channel : {0, 16, 0, 16}) {
        run.push_back(static_cast<uint8_t>(channel + 3));
    }
    test::Bytes alone = {0, 1, 7, 8, 8, 11, 0, 1, 3, 2, 0, 2}; // the coordinator goes
    test::Bytes changed = {0, 17, 3, 1};                       // another version
    test::Bytes other = {0, 1, 8, 16 + 5, 0, 8};               // another store's directory
    // One slot is told, then the end; scanned, started, a packet.
    test::Bytes kept = {1, 1, 8, 5, 0, 8, 69, 0, 7, 3, 201, 64, 0, 1, 10, 6, 8, 8, 8, 11, 1, 7, 3};
    Write(dir / "kept", kept);
    const std::string error = R"({"error": "no", "code": "limit"})";
    test::Bytes refused = {0, 1, 8, 4, static_cast<uint8_t>(error.size()), 0};
    Append(&refused, BytesOf(error));
    refused.push_back(8);
    WriteOperations(dir, "run", run);
    WriteOperations(dir, "alone", alone);
    WriteOperations(dir, "changed", changed);
    WriteOperations(dir, "other", other);
    WriteOperations(dir, "refused", refused);
}

void WritePlans(const std::filesystem::path &dir) {
    const std::string vm = R"({"name": "vm1", "source": "/a", "destination": "/b",
        "uri": "tcp:192.0.2.2:1", "listen": "tcp:0:1"})";
    const std::string plan = R"({"gang": "web", "source_coordinator": "/s", "channels": 2,
        "destination_coordinator": "/d", "compression": "none", "level": 3,
        "max_bandwidth": 1, "downtime_limit": 300, "gang_max_bandwidth": 5, "bulk_members": 1,
        "turn_limit": 3, "patience": 2, "stuck": "last", "vms": [)";
    auto write = [&](const char *name, char kind, const std::string &text) {
        Write(dir / name, BytesOf(kind + text));
    };
    write("plan", 0, plan + vm + "]}");
    write("none", 0, plan + "]}");
    write("twice", 0, plan + vm + "," + vm + "]}");
    write("deep", 0, plan + std::string(20000, '[') + std::string(20000, ']') + "]}");
    write("argument", 1, "name=vm1,source=/a,destination=/b,uri=tcp:192.0.2.2:1,listen=tcp:0:1,priority=7");
}

void WriteWords(const std::filesystem::path &path) {
    std::string text;
    for (const char *word :
         {"op",      "hello",    "version",  "layout",     "join-source", "join-destination",
          "gang",    "member",   "members",  "store",      "seed",        "slots",
          "hash",    "xxh3-128", "sha256",   "channels", "ram-pages",  "page-size",   "scanned",
          "leave",   "result",   "status",   "after",      "directory",   "index",
          "joined",  "missing",  "start",    "error",      "code",        "vms",
          "level",   "name",     "source",   "destination", "uri",        "listen",
          "zstd",    "none",     "compression", "max_bandwidth", "downtime_limit",
          "source_coordinator", "destination_coordinator", "gang_max_bandwidth", "bulk_members",
          "turn_limit", "patience", "stuck", "priority", "set", "board", "expect",
          "max-bandwidth", "bulk-members", "turn-limit"}) {
        text += std::string("\"") + word + "\"\n\"\\\"" + word + "\\\": \"\n";
    }
    for (const char *word : {"{", "}", "[", "]", ":", ",", "null", "true", "1e9", "-1",
                             "18446744073709551615"}) {
        text += std::string("\"") + word + "\"\n";
    }
    Write(path, BytesOf(text));
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    const std::filesystem::path root(argv[1]);
    std::filesystem::remove_all(root);
    for (const char *target : {"decoder", "shared_memory", "gangd", "return_path", "plan"}) {
        std::filesystem::create_directories(root / target);
    }

    const std::vector<std::vector<std::vector<uint64_t>>> streams = {
        {{0, 0, 0, 0}},
        {{100, 101, 102, 107, 0, 103}},
        {{2}, {4, 100}, {6, 0}, {8, 105}},
        {{2, 101}, {3, 4}, {0, 2, 100, 6}},
        {{2, 0, 4, 100, 101}, {2, 4, 6, 0, 0, 107}, {102, 8, 8}},
        {{2}, // then one to code others against, a patch and a delta
         {test::SimilarContent(0, 0)},
         {2, test::SimilarContent(0, 2), test::SimilarContent(0, 12)}}};
    for (size_t i = 0; i < streams.size(); i++) {
        for (uint8_t choice = 0; choice < 4; choice++) {
            std::string name =
                std::to_string(i) + (choice & 1 ? "-repaired" : "") + (choice & 2 ? "-sha256" : "");
            Write(root / "decoder" / ("raw-" + name),
                  Stream({PayloadEncoding::kRaw, 1}, streams[i], choice));
            Write(root / "decoder" / ("zstd-" + name),
                  Stream({PayloadEncoding::kZstd, 1}, streams[i], choice));
        }
    }

    const std::filesystem::path operations = root / "shared_memory";
    WriteOperations(operations, "publish", {4, 1, 9, 4, 1, 9, 5, 1, 9, 7,   6, 0, 0, 0,  0, 1, 10,
                                            0, 0, 9, 0, 3, 1, 0, 0, 0, 200, 5, 1, 9, 11, 0, 0});
    test::Bytes scribble = {4, 1, 9, 4, 1, 9, 7};
    for (uint64_t offset : {0u, 64u, 96u, 192u, 320u, 400u, 74048u, 74112u}) {
        scribble.insert(scribble.end(),
                        {0, static_cast<uint8_t>(offset), static_cast<uint8_t>(offset >> 8),
                         static_cast<uint8_t>(offset >> 16), 8, 1, 2, 3, 4, 5, 6, 7, 8, 2, 5, 1, 9,
                         7});
    }
    WriteOperations(operations, "scribble-directory", scribble);
    test::Bytes store = {10, 0, 0, 10, 1, 0, 11, 0, 0};
    for (unsigned offset : {0u, 64u, 80u, 4096u, 4104u, 4128u, 12288u, 16384u}) {
        store.insert(store.end(),
                     {1, static_cast<uint8_t>(offset), static_cast<uint8_t>(offset >> 8), 0, 4, 9,
                      9, 9, 9, 3, 11, 0, 0, 11, 1, 0, 10, 2, 0});
    }
    WriteOperations(operations, "scribble-store", store);
    WriteCodecOperations(operations);
    WriteGangd(root / "gangd");
    WriteReturnPath(root / "return_path");
    WritePlans(root / "plan");
    WriteWords(root / "words.dict");
    return 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Writes the inputs that fuzzing starts from: streams of the real encoder with
// every kind of page, and a few orders of directory and store operations.

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

// A VM's stream to a store whose first slots hold contents 100 to 107.
test::Bytes Stream(const EncoderOptions &options, const std::vector<std::vector<uint64_t>> &packets,
                   bool repair) {
    DirectoryConfig config;
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

    test::Bytes stream = {static_cast<uint8_t>(repair)};
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

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    const std::filesystem::path root(argv[1]);
    std::filesystem::remove_all(root);
    std::filesystem::create_directories(root / "decoder");
    std::filesystem::create_directories(root / "shared_memory");

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
        for (bool repair : {false, true}) {
            std::string name = std::to_string(i) + (repair ? "-repaired" : "");
            Write(root / "decoder" / ("raw-" + name),
                  Stream({PayloadEncoding::kRaw, 1}, streams[i], repair));
            Write(root / "decoder" / ("zstd-" + name),
                  Stream({PayloadEncoding::kZstd, 1}, streams[i], repair));
        }
    }

    Write(root / "shared_memory" / "publish",
          {4, 1, 9, 4, 1, 9, 5, 1, 9, 7,   6, 0, 0, 0,  0, 1, 10,
           0, 0, 9, 0, 3, 1, 0, 0, 0, 200, 5, 1, 9, 11, 0, 0});
    test::Bytes scribble = {4, 1, 9, 4, 1, 9, 7};
    for (uint64_t offset : {0u, 64u, 96u, 192u, 320u, 400u, 74048u, 74112u}) {
        scribble.insert(scribble.end(),
                        {0, static_cast<uint8_t>(offset), static_cast<uint8_t>(offset >> 8),
                         static_cast<uint8_t>(offset >> 16), 8, 1, 2, 3, 4, 5, 6, 7, 8, 2, 5, 1, 9,
                         7});
    }
    Write(root / "shared_memory" / "scribble-directory", scribble);
    test::Bytes store = {10, 0, 0, 10, 1, 0, 11, 0, 0};
    for (unsigned offset : {0u, 64u, 80u, 4096u, 4104u, 4128u, 12288u, 16384u}) {
        store.insert(store.end(),
                     {1, static_cast<uint8_t>(offset), static_cast<uint8_t>(offset >> 8), 0, 4, 9,
                      9, 9, 9, 3, 11, 0, 0, 11, 1, 0, 10, 2, 0});
    }
    Write(root / "shared_memory" / "scribble-store", store);
    return 0;
}

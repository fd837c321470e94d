// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// gang_floor: what a gang's memory could be sent in, from dumps of its RAM.
//
//   gang_floor [--entropy] DUMP...       prints one JSON object
//
// Each figure is one more step of the coder, done without any of the limits of
// a live migration: all guests are read one after the other, everything that
// came before may be referred to, nothing is lost to scheduling.
//
//   distinct     each different non-zero page once
//   subpage      ... and of those each different block once
//   delta        32 pages a chunk, compressed with each page's best reference as
//                prefix; candidates are earlier pages that share a min-hash
//                feature, a 512-byte block, or the page number
//   zstd19_long  near the entropy: zstd -19 --long=31 over the distinct pages

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kChunk = 32; // pages a delta chunk has
constexpr uint32_t kNone = UINT32_MAX;

void Check(size_t result) {
    if (ZSTD_isError(result)) {
        throw std::runtime_error(std::string("zstd: ") + ZSTD_getErrorName(result));
    }
}

// A dump, mapped for as long as the process lives.
struct Dump {
    explicit Dump(const std::string &path) {
        int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0) {
            throw std::runtime_error("cannot read " + path);
        }
        pages = static_cast<size_t>(st.st_size) / kPage;
        void *p = pages ? mmap(nullptr, pages * kPage, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
        close(fd);
        if (p == MAP_FAILED) {
            throw std::runtime_error("cannot map " + path);
        }
        data = static_cast<const uint8_t *>(p);
    }
    const uint8_t *data;
    size_t pages;
};

// Counts the bytes that a zstd stream makes of what is put into it.
class Stream {
  public:
    explicit Stream(int level) : cctx_(ZSTD_createCCtx(), ZSTD_freeCCtx) {
        Set(ZSTD_c_compressionLevel, level);
    }
    void Set(ZSTD_cParameter parameter, int value) {
        Check(ZSTD_CCtx_setParameter(cctx_.get(), parameter, value));
    }
    void Put(const void *data, size_t size, ZSTD_EndDirective mode = ZSTD_e_continue) {
        ZSTD_inBuffer in = {data, size, 0};
        size_t left;
        do {
            ZSTD_outBuffer out = {buffer_.data(), buffer_.size(), 0};
            left = ZSTD_compressStream2(cctx_.get(), &out, &in, mode);
            Check(left);
            bytes_ += out.pos;
        } while (in.pos < in.size || (mode == ZSTD_e_end && left));
    }
    uint64_t End() {
        Put(nullptr, 0, ZSTD_e_end);
        return bytes_;
    }

  private:
    std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> cctx_;
    std::vector<uint8_t> buffer_ = std::vector<uint8_t>(1 << 17);
    uint64_t bytes_ = 0;
};

struct HashEqual {
    bool operator()(const XXH128_hash_t &a, const XXH128_hash_t &b) const {
        return a.low64 == b.low64 && a.high64 == b.high64;
    }
};
struct HashKey {
    size_t operator()(const XXH128_hash_t &h) const { return h.low64; }
};
template <typename T> using ByContent = std::unordered_map<XXH128_hash_t, T, HashKey, HashEqual>;

struct Page {
    const uint8_t *data;
    uint32_t number; // in its dump
};

bool IsZero(const uint8_t *p, size_t n) { return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0; }

// Pages that are left when every block seen before is taken out.
uint64_t WithoutEqualBlocks(const std::vector<Page> &pages, size_t block) {
    ByContent<char> seen;
    Stream stream(1);
    for (const Page &page : pages) {
        for (size_t at = 0; at < kPage; at += block) {
            if (!IsZero(page.data + at, block) &&
                seen.emplace(XXH3_128bits(page.data + at, block), 0).second) {
                stream.Put(page.data + at, block);
            }
        }
    }
    return stream.End();
}

// Min-hashes over the page's 64-byte blocks: pages that share a part J of
// their blocks share each feature with probability J.
std::array<uint64_t, 3> Features(const uint8_t *page) {
    std::array<uint64_t, 3> least;
    least.fill(UINT64_MAX);
    for (size_t at = 0; at < kPage; at += 64) {
        if (IsZero(page + at, 64)) {
            continue;
        }
        uint64_t h = XXH3_64bits(page + at, 64);
        for (size_t i = 0; i < least.size(); i++) {
            h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
            least[i] = std::min(least[i], h);
        }
    }
    return least;
}

// For each page the earlier one that compresses it best, or kNone.
std::vector<uint32_t> References(const std::vector<Page> &pages) {
    std::array<std::unordered_map<uint64_t, uint32_t>, 3> by_feature;
    std::unordered_map<uint64_t, uint32_t> by_block;
    std::unordered_map<uint32_t, uint32_t> by_number;
    std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> cctx(ZSTD_createCCtx(), ZSTD_freeCCtx);
    Check(ZSTD_CCtx_setParameter(cctx.get(), ZSTD_c_compressionLevel, 1));
    std::vector<uint8_t> out(ZSTD_compressBound(kPage));
    std::vector<uint32_t> best(pages.size(), kNone), candidates;
    for (uint32_t n = 0; n < pages.size(); n++) {
        const Page &page = pages[n];
        candidates.clear();
        auto look = [&](auto *table, auto key) {
            auto [it, fresh] = table->emplace(key, n);
            if (!fresh) {
                candidates.push_back(it->second);
                it->second = n;
            }
        };
        const std::array<uint64_t, 3> features = Features(page.data);
        for (size_t i = 0; i < features.size(); i++) {
            look(&by_feature[i], features[i]);
        }
        for (size_t at = 0; at < kPage; at += 512) {
            if (!IsZero(page.data + at, 512)) {
                look(&by_block, XXH3_64bits(page.data + at, 512));
            }
        }
        look(&by_number, page.number);
        std::sort(candidates.begin(), candidates.end());
        candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
        size_t least = ZSTD_compress2(cctx.get(), out.data(), out.size(), page.data, kPage);
        Check(least);
        for (uint32_t candidate : candidates) {
            Check(ZSTD_CCtx_refPrefix(cctx.get(), pages[candidate].data, kPage));
            size_t size = ZSTD_compress2(cctx.get(), out.data(), out.size(), page.data, kPage);
            Check(size);
            if (size < least) {
                least = size;
                best[n] = candidate;
            }
        }
    }
    return best;
}

uint64_t InChunks(const std::vector<Page> &pages, const std::vector<uint32_t> &best, int level) {
    std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> cctx(ZSTD_createCCtx(), ZSTD_freeCCtx);
    Check(ZSTD_CCtx_setParameter(cctx.get(), ZSTD_c_compressionLevel, level));
    Check(ZSTD_CCtx_setParameter(cctx.get(), ZSTD_c_windowLog, 19));
    std::vector<uint8_t> out(ZSTD_compressBound(kChunk * kPage)), in, prefix;
    uint64_t bytes = 0;
    for (size_t first = 0; first < pages.size(); first += kChunk) {
        std::vector<uint32_t> references;
        in.clear();
        prefix.clear();
        for (size_t n = first; n < std::min(first + kChunk, pages.size()); n++) {
            in.insert(in.end(), pages[n].data, pages[n].data + kPage);
            // One that is in this chunk itself is within reach anyway.
            if (best[n] != kNone && best[n] < first) {
                references.push_back(best[n]);
            }
        }
        std::sort(references.begin(), references.end());
        references.erase(std::unique(references.begin(), references.end()), references.end());
        for (uint32_t r : references) {
            prefix.insert(prefix.end(), pages[r].data, pages[r].data + kPage);
        }
        Check(ZSTD_CCtx_refPrefix(cctx.get(), prefix.data(), prefix.size()));
        size_t size = ZSTD_compress2(cctx.get(), out.data(), out.size(), in.data(), in.size());
        Check(size);
        bytes += size;
    }
    return bytes;
}

nlohmann::ordered_json Measure(const std::vector<std::string> &paths, bool entropy) {
    std::vector<Page> distinct;
    ByContent<char> seen;
    uint64_t total = 0, zero = 0;
    for (const std::string &path : paths) {
        Dump dump(path);
        total += dump.pages;
        for (size_t i = 0; i < dump.pages; i++) {
            const uint8_t *page = dump.data + i * kPage;
            if (IsZero(page, kPage)) {
                zero++;
            } else if (seen.emplace(XXH3_128bits(page, kPage), 0).second) {
                distinct.push_back({page, static_cast<uint32_t>(i)});
            }
        }
    }
    Stream fast(1);
    for (const Page &page : distinct) {
        fast.Put(page.data, kPage);
    }
    const std::vector<uint32_t> best = References(distinct);
    nlohmann::ordered_json j;
    j["pages"] = total;
    j["zero_pages"] = zero;
    j["nonzero_pages"] = total - zero;
    j["distinct_pages"] = distinct.size();
    j["distinct_zstd1_bytes"] = fast.End();
    j["subpage1024_zstd1_bytes"] = WithoutEqualBlocks(distinct, 1024);
    j["subpage512_zstd1_bytes"] = WithoutEqualBlocks(distinct, 512);
    j["pages_with_reference"] =
        best.size() - static_cast<size_t>(std::count(best.begin(), best.end(), kNone));
    j["delta_zstd1_bytes"] = InChunks(distinct, best, 1);
    j["delta_zstd3_bytes"] = InChunks(distinct, best, 3);
    if (entropy) {
        Stream slow(19);
        slow.Set(ZSTD_c_enableLongDistanceMatching, 1);
        slow.Set(ZSTD_c_windowLog, 31);
        for (const Page &page : distinct) {
            slow.Put(page.data, kPage);
        }
        j["zstd19_long_bytes"] = slow.End();
    }
    return j;
}

} // namespace

int main(int argc, char **argv) {
    CLI::App app{"What a gang's memory could be sent in, from raw dumps of its RAM", "gang_floor"};
    std::vector<std::string> dumps;
    bool entropy = false;
    app.add_flag("--entropy", entropy, "zstd -19 --long=31 too: takes minutes a GiB");
    app.add_option("DUMP", dumps, "raw RAM, a file a VM")->required()->check(CLI::ExistingFile);
    CLI11_PARSE(app, argc, argv);
    try {
        std::cout << Measure(dumps, entropy).dump(2) << std::endl;
    } catch (const std::exception &e) {
        std::cerr << "gang_floor: " << e.what() << std::endl;
        return 1;
    }
    return 0;
}

// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Runs a harness over every file of a directory and over random mutations of
// each, so many in all: what a fuzzer does, without its eyes, and with any compiler.
// $GANG_LONG: ten times as many.  A seed is printed ($GANG_SEED repeats it).

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "fuzz_store.h"

namespace {

using gang::test::Below;
using gang::test::Bytes;
using gang::test::Rng;

void Mutate(Bytes *bytes, Rng &rng) {
    for (uint64_t n = 1 + Below(rng, 4); n; n--) {
        if (bytes->empty()) {
            return;
        }
        // The front is where structure is.
        size_t range = Below(rng, 2) ? bytes->size() : std::min<size_t>(bytes->size(), 80);
        auto at = bytes->begin() + static_cast<ptrdiff_t>(Below(rng, range));
        switch (Below(rng, 5)) {
        case 0:
            *at ^= static_cast<uint8_t>(1 << Below(rng, 8));
            break;
        case 1:
            *at = static_cast<uint8_t>(rng());
            break;
        case 2:
            *at = Below(rng, 2) ? 0xff : 0x00;
            break;
        case 3:
            bytes->insert(at, static_cast<uint8_t>(rng()));
            break;
        case 4:
            Below(rng, 4) ? bytes->erase(at) : bytes->erase(at, bytes->end());
            break;
        }
    }
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s DIRECTORY MUTATIONS\n", argv[0]);
        return 2;
    }
    Rng rng(gang::test::TestSeed());
    std::vector<std::filesystem::path> paths;
    for (const auto &entry : std::filesystem::directory_iterator(argv[1])) {
        paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end()); // the same order for the same seed
    const size_t mutations =
        strtoull(argv[2], nullptr, 0) * (getenv("GANG_LONG") ? 10 : 1) / (paths.size() + 1);
    for (const auto &path : paths) {
        std::ifstream in(path, std::ios::binary);
        const Bytes bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        for (size_t i = 0; i < mutations; i++) {
            Bytes mutated = bytes;
            Mutate(&mutated, rng);
            mutated.shrink_to_fit(); // so that sanitizers see its end
            LLVMFuzzerTestOneInput(mutated.data(), mutated.size());
        }
    }
    printf("%zu files, %zu mutations each\n", paths.size(), mutations);
    return paths.empty();
}

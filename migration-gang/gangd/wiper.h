// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the gang migration authors
//
// Takes the content out of shared memory whose gang has ended.

#ifndef GANGD_WIPER_H
#define GANGD_WIPER_H

#include <cstdint>
#include <deque>

namespace gangd {

// Closing the last descriptor frees a segment's pages, and the kernel clears
// them before anybody else gets them.  But as long as one member keeps its
// descriptor or mapping, be it stuck, it keeps what the others wrote: the
// pages are therefore taken out of the file, under all mappings.  Who still
// looks finds zeros.
//
// Runs on GLib's default main context, a slice at a time: a store may have
// many gigabytes, and freeing one takes a tenth of a second.
class Wiper {
  public:
    Wiper() = default;
    // Finishes what was added: to end cleanly is no reason to leave content.
    ~Wiper();
    Wiper(const Wiper &) = delete;
    Wiper &operator=(const Wiper &) = delete;

    // Takes over the descriptor of a memfd.
    void Add(int fd);
    // Whether it is not done yet with the file of this descriptor.
    bool Has(int fd) const;

  private:
    struct Segment {
        int fd;
        int64_t done; // bytes from the start that hold nothing any more
    };
    // One slice of the first segment; false when nothing is left.
    bool Step();

    std::deque<Segment> segments_;
    unsigned source_ = 0;
};

} // namespace gangd

#endif

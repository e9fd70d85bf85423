// Text files that may be compressed: gzip (.gz) or zstd (.zst), found by their first bytes.
#pragma once

#include <cstdint>
#include <string>

#include "miq/base/blob.h"

namespace miq {

// What a compressed text may unpack to: 200 times its size but at least 64 MiB and at most 1 GiB. Text shrinks to a fifth or a
// tenth; a file that unpacks to more is no text to measure on.
std::uint64_t unpacked_limit(std::uint64_t file_bytes);

// The bytes of a file that is not compressed (mapped), or of what gzip or zstd packed, members and frames joined; checksums are
// verified. Throws FormatError naming the file where it is missing, damaged, cut short, followed by something else, or beyond
// unpacked_limit(). Takes memory for what is unpacked, up to half as much again while it grows, and at most 128 MiB for zstd's window.
Blob read_text_bytes(const std::string& path);

}  // namespace miq

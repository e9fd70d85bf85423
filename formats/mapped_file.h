// A file mapped read-only into memory. The mapping lives as long as any Blob made from it.
#pragma once

#include <string>

#include "miq/base/blob.h"

namespace miq {

// Throws FormatError when `path` is missing, no regular file, or unreadable. An empty file gives an
// empty Blob. Pages are read when touched; a file that shrinks while mapped raises SIGBUS (as with
// every mapping), so sources must not be changed while a command runs.
Blob map_file(const std::string& path);
// Whole small text file (a config, an index); refuses more than `limit` bytes.
std::string read_text_file(const std::string& path, std::uint64_t limit = 256u << 20);

}  // namespace miq

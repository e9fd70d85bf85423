// Memory backed by the disk instead of the machine's memory: files in a folder that have no name, so that a killed process leaves
// nothing behind. The kernel writes their pages back and drops them when memory is short.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "miq/formats/tensor.h"

namespace miq {

class ScratchFolder {
 public:
  // Throws Error where the folder is missing or no file can be made there.
  explicit ScratchFolder(std::string path);

  const std::string& path() const { return path_; }
  // Throws Error naming the folder, what is needed and what is free, where it has less than `bytes` left.
  void require(std::uint64_t bytes) const;
  // Zeros, mapped for reading and writing, aligned to a page. The space is set aside now (so that a full disk is an Error here and no
  // signal later) and given back with the last owner. Thread-safe.
  std::shared_ptr<std::uint8_t> allocate(std::uint64_t bytes) const;

 private:
  int open_file() const;
  std::string path_;
};

// The same tensor, its sections in scratch files.
Tensor moved_to(const ScratchFolder& folder, Tensor tensor);

}  // namespace miq

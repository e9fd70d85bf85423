// How a source keeps tensors that a reader has to decode when it opens it (the blocks of a GGUF file): in memory they are plain floats, and
// what they take in the file would be lost without this.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace miq {

struct StoredType {
  std::string name;             // "Q4_1"
  std::uint64_t code_bits = 0;  // of all the tensor's codes
  std::uint64_t bits = 0;       // of everything: codes, scales, minima
};

using StoredTypes = std::map<std::string, StoredType>;  // by the tensor's name in the Model

}  // namespace miq

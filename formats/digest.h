// XXH3-128 digests, written as 32 hexadecimal digits. They tell contents apart; they are no signature.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "miq/base/blob.h"

namespace miq {

class Digest {
 public:
  Digest();
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  void add(Bytes bytes);
  void add(std::string_view text);  // with its length first, so that "ab","c" differs from "a","bc"
  std::string hex() const;

 private:
  void* state_;
};

std::string digest_of(Bytes bytes);
std::uint64_t xxh3_64(Bytes bytes);

}  // namespace miq

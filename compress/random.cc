// MT19937 as in Matsumoto and Nishimura's reference description, with CPython's seeding (the words of
// the absolute value of the seed, lowest first) and its rejection method for bounded integers.
#include "miq/compress/random.h"

#include <bit>
#include <vector>

namespace miq {

PythonRandom::PythonRandom(std::uint64_t seed) {
  state_[0] = 19650218u;
  for (int i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<std::uint32_t>(i);
  std::vector<std::uint32_t> key{static_cast<std::uint32_t>(seed)};
  if (seed >> 32) key.push_back(static_cast<std::uint32_t>(seed >> 32));
  int i = 1;
  std::size_t j = 0;
  auto advance = [&] {
    if (++i >= kWords) {
      state_[0] = state_[kWords - 1];
      i = 1;
    }
  };
  for (int k = 0; k < kWords; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + key[j] + static_cast<std::uint32_t>(j);
    j = (j + 1) % key.size();
    advance();
  }
  for (int k = 0; k < kWords - 1; ++k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - static_cast<std::uint32_t>(i);
    advance();
  }
  state_[0] = 0x80000000u;
}

std::uint32_t PythonRandom::next() {
  if (index_ >= kWords) {
    for (int i = 0; i < kWords; ++i) {
      const std::uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
      state_[i] = state_[(i + 397) % kWords] ^ (y >> 1) ^ ((y & 1u) ? 0x9908b0dfu : 0u);
    }
    index_ = 0;
  }
  std::uint32_t y = state_[index_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

std::int64_t PythonRandom::below(std::int64_t below) {
  const int bits = std::bit_width(static_cast<std::uint64_t>(below));
  for (;;) {
    std::uint64_t value;
    if (bits <= 32) {
      value = next() >> (32 - bits);
    } else {  // low word first, as CPython fills its array
      value = next();
      value |= static_cast<std::uint64_t>(next() >> (64 - bits)) << 32;
    }
    if (value < static_cast<std::uint64_t>(below)) return static_cast<std::int64_t>(value);
  }
}

}  // namespace miq

// The generator of CPython's `random` module (Mersenne Twister MT19937, seeded by an integer), so that a
// seed picks the calibration windows that SparseGPT's and Wanda's scripts pick with random.seed(SEED).
#pragma once

#include <array>
#include <cstdint>

namespace miq {

class PythonRandom {
 public:
  // random.seed(seed): init_by_array of the seed's 32-bit words (Matsumoto and Nishimura, 2002).
  explicit PythonRandom(std::uint64_t seed);
  // random.getrandbits(32).
  std::uint32_t next();
  // random.randint(0, below - 1): as many bits as `below` takes, drawn again while too large.
  // REQUIRES 0 < below < 2^63.
  std::int64_t below(std::int64_t below);

 private:
  static constexpr int kWords = 624;
  std::array<std::uint32_t, kWords> state_;
  int index_ = kWords;
};

}  // namespace miq

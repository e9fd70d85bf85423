// The choice of the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>

namespace miq {

struct Sampling {
  double temperature = 0;   // 0: the token with the largest logit (of equal ones the first)
  std::int64_t top_k = 0;   // of the k most probable tokens alone; 0: of all
  double top_p = 1;         // of the fewest most probable tokens whose probabilities, after top_k, sum to at least this
  std::uint64_t seed = 0;
};

// Throws UsageError: a negative or infinite temperature, a negative top_k, a top_p outside (0, 1].
void check_sampling(const Sampling& sampling);

// One for each sequence: draws from std::mt19937_64, seeded with `seed` plus the sequence's number, 53 bits a token, so that the
// same seed gives the same tokens.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling, std::uint64_t sequence = 0);
  // Throws Error where a logit is not finite.
  std::int32_t choose(std::span<const float> logits);

 private:
  Sampling sampling_;
  std::mt19937_64 random_;
};

}  // namespace miq

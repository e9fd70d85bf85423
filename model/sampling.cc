// Tokens are ordered by logit, equal ones by id, as far as top_k and top_p need it; the token drawn is the first whose cumulated
// probability, in double and in that order, exceeds a uniform number.
#include "miq/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "miq/base/error.h"

namespace miq {

void check_sampling(const Sampling& sampling) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) throw UsageError("--temperature must be 0 or a positive number");
  if (sampling.top_k < 0) throw UsageError("--top-k must be 0 (all tokens) or more");
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) throw UsageError("--top-p must be above 0 and at most 1");
}

Sampler::Sampler(const Sampling& sampling, std::uint64_t sequence) : sampling_(sampling), random_(sampling.seed + sequence) { check_sampling(sampling); }

std::int32_t Sampler::choose(std::span<const float> logits) {
  if (logits.empty()) throw Error("no logits to choose a token from");
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) throw Error("the logit of token " + std::to_string(i) + " is not finite: the model's weights overflow in this --dtype");
  }
  if (sampling_.temperature == 0) return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::size_t kept = order.size();
  if (sampling_.top_k > 0 && static_cast<std::uint64_t>(sampling_.top_k) < kept) {
    kept = static_cast<std::size_t>(sampling_.top_k);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), before);
    order.resize(kept);
  } else if (sampling_.top_p < 1) {
    std::sort(order.begin(), order.end(), before);
  }
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(kept);
  double sum = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    sum += weights[i] = std::exp((static_cast<double>(logits[static_cast<std::size_t>(order[i])]) - largest) / sampling_.temperature);
  }
  if (sampling_.top_p < 1) {
    double nucleus = 0;
    std::size_t count = 0;
    while (count < kept && nucleus < sampling_.top_p * sum) nucleus += weights[count++];
    kept = std::max<std::size_t>(1, count);
    sum = nucleus;
  }
  const double drawn = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
  double passed = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    passed += weights[i];
    if (drawn < passed) return order[i];
  }
  return order[kept - 1];
}

}  // namespace miq

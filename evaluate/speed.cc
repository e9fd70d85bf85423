// The same walk as perplexity's, on made-up ids: the time does not depend on what the tokens are.
#include "miq/evaluate/speed.h"

namespace miq {

Throughput measure_speed(const ForwardPass& forward, std::int64_t seqlen, std::int64_t windows, ThreadPool& pool,
                         const ProgressFunction& progress, const WalkOptions& options) {
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.text_tokens = seqlen * windows;
  const auto vocabulary = static_cast<std::uint64_t>(forward.model().config.vocabulary);
  for (std::int64_t i = 0; i < plan.text_tokens; ++i) {
    plan.tokens.push_back(static_cast<std::int32_t>(static_cast<std::uint64_t>(i) * 7919 % vocabulary));
  }
  for (std::int64_t w = 0; w < windows; ++w)
    plan.windows.push_back({static_cast<std::size_t>(w * seqlen), static_cast<std::size_t>(seqlen), 0});
  WalkStatistics walk;
  walk_windows(forward, {&plan}, pool, options, progress, walk);
  return {static_cast<double>(walk.tokens) / walk.seconds, walk.seconds, walk.tokens, seqlen, true};
}

}  // namespace miq

// Walks within a budget: what is chosen, that the figures stay the same, and what a walk really takes.
#include "miq/evaluate/memory_budget.h"

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "miq/base/error.h"
#include "miq/evaluate/memory.h"
#include "tests/evaluate/toy.h"
#include "tests/sanitized.h"

namespace miq {
namespace {

using Losses = std::vector<std::vector<std::vector<float>>>;

WindowPlan made_up_plan(std::int64_t windows, std::int64_t seqlen, std::int64_t vocabulary) {
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.tokens = test::random_ids(windows * seqlen, vocabulary, 5);
  for (std::int64_t w = 0; w < windows; ++w) plan.windows.push_back({static_cast<std::size_t>(w * seqlen), static_cast<std::size_t>(seqlen), 0});
  return plan;
}

Losses walk(const ForwardPass& forward, const WindowPlan& plan, ThreadPool& pool, const WalkOptions& options) {
  WalkStatistics statistics;
  return walk_windows(forward, {&plan}, pool, options, {}, statistics);
}

TEST(MemoryBudget, ChoosesWindowsAndLayers) {
  const auto toy = test::toy_model();
  const ForwardPass forward(toy.model, ComputeType::BFloat16);
  const WalkMemory memory = forward.walk_memory(100);
  EXPECT_EQ(memory.window, 100u * 37 * 4);
  EXPECT_GT(memory.kept, 0u);
  WalkOptions options;
  EXPECT_EQ(fit_memory(forward, options, 100, 4).most_windows, 0);
  options.memory_bytes = 1000;
  EXPECT_THROW(fit_memory(forward, options, 100, 4), Error);
  options.memory_bytes = anonymous_bytes() + memory.head + memory.kept + memory.loading + memory.work + memory.window + (1 << 20);
  const WalkOptions tight = fit_memory(forward, options, 100, 4);
  EXPECT_EQ(tight.most_windows, 1);
  options.memory_bytes += std::uint64_t{1} << 32;
  const WalkOptions wide = fit_memory(forward, options, 100, 4);
  EXPECT_TRUE(wide.load_early);
  EXPECT_GT(wide.most_windows, 1000);
  EXPECT_LE(static_cast<std::uint64_t>(wide.most_windows) * memory.window, options.activation_bytes);
}

TEST(MemoryBudget, FiguresStayTheSame) {
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    Config config = test::odd_config();
    config.hidden = 38;
    for (LayerConfig& layer : config.layers) layer.mlp_width += layer.mlp_width % 2;  // our own kernels where there are any
    const auto small = test::small_model(config, DType::BF16);
    const ForwardPass forward(small.model, type);
    const WindowPlan plan = made_up_plan(9, 40, config.vocabulary);
    ThreadPool pool(3);
    const Losses expected = walk(forward, plan, pool, {});
    for (const std::int64_t windows : {1, 2, 4}) {
      for (const bool early : {true, false}) {
        WalkOptions options;
        options.most_windows = windows;
        options.load_early = early;
        EXPECT_EQ(walk(forward, plan, pool, options), expected) << windows << early;
      }
    }
  }
}

// A model whose layers weigh more than anything else: what the walk takes is bounded by what was foretold, and hardly grows with the
// number of windows behind each other.
TEST(MemoryBudget, HoldsInAWalk) {
  Config config = test::odd_config();
  config.vocabulary = 300;
  config.hidden = 256;
  config.layers.assign(8, {8, 4, 32, 2048});
  const auto small = test::small_model(config, DType::BF16);
  if (anonymous_bytes() == 0) GTEST_SKIP() << "the system does not say how much memory this process takes";
  if (test::kAddressSanitizer) GTEST_SKIP() << "AddressSanitizer keeps freed memory";
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const ForwardPass forward(small.model, type);
    ThreadPool pool(2);
    for (const std::int64_t windows : {1, 32}) {
      const WindowPlan plan = made_up_plan(windows, 128, config.vocabulary);
      const WalkMemory memory = forward.walk_memory(128);
      MemoryWatch watch;
      const std::uint64_t before = anonymous_bytes();
      WalkOptions options;
      options.memory_bytes = before + memory.head + 2 * memory.kept + memory.loading + 2 * memory.work + 4 * memory.window;
      WalkStatistics statistics;
      walk_windows(forward, {&plan}, pool, options, [&](const Progress&) { watch.sample(); }, statistics);
      EXPECT_LT(static_cast<double>(watch.figures().peak_anonymous_bytes - before), 1.2 * static_cast<double>(options.memory_bytes - before) + 4e6)
          << compute_type_name(type) << ", " << windows << " windows";
    }
  }
}

}  // namespace
}  // namespace miq

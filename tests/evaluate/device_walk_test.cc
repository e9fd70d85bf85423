// Walks in the form that GPUs run, on the processor: the same losses however memory is shared out, and what happens when it ends.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "miq/base/error.h"
#include "miq/evaluate/memory_budget.h"
#include "miq/evaluate/zeroshot.h"
#include "tests/evaluate/toy.h"
#include "tests/model/random_packed.h"
#include "tests/reference/packed_emulation.h"
#include "tests/reference/small_memory.h"

namespace miq::test {
namespace {

using Losses = std::vector<std::vector<std::vector<float>>>;

WindowPlan made_up_plan(std::int64_t windows, std::int64_t seqlen, std::int64_t vocabulary) {
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.tokens = random_ids(windows * seqlen, vocabulary, 9);
  plan.text_tokens = windows * seqlen;
  for (std::int64_t w = 0; w < windows; ++w) plan.windows.push_back({static_cast<std::size_t>(w * seqlen), static_cast<std::size_t>(seqlen), 0});
  return plan;
}

Losses walk(const ForwardPass& forward, const WindowPlan& plan, int threads, const WalkOptions& options) {
  ThreadPool pool(threads);
  WalkStatistics statistics;
  return walk_windows(forward, {&plan}, pool, options, {}, statistics);
}

using reference::SmallMemory;

TEST(DeviceWalk, LossesAreTheSameHoweverItIsDone) {
  const auto toy = toy_model();
  const WindowPlan plan = made_up_plan(7, 20, toy.model.config.vocabulary);
  const Losses expected = walk(ForwardPass(toy.model, ComputeType::Float32), plan, 2, {});
  const ForwardPass forward(toy.model, ComputeType::Float32, Kernels::Device);
  Losses first;
  for (const int threads : {1, 3}) {
    for (const std::int64_t most : {0, 1, 3}) {
      for (const bool early : {true, false}) {
        WalkOptions options;
        options.most_windows = most;
        options.load_early = early;
        options.device_windows = most - 1;
        const Losses got = walk(forward, plan, threads, options);
        if (first.empty()) first = got;
        EXPECT_EQ(got, first);
      }
    }
  }
  for (std::size_t w = 0; w < 7; ++w) {
    for (std::size_t i = 0; i < first[0][w].size(); ++i) EXPECT_NEAR(first[0][w][i], expected[0][w][i], 5e-5);
  }
}

TEST(DeviceWalk, MemoryIsSharedOut) {
  const auto toy = toy_model();
  const ForwardPass forward(toy.model, ComputeType::Float32, Kernels::Device);
  const WalkMemory memory = forward.walk_memory(100);
  WalkOptions options;
  EXPECT_GT(fit_memory(forward, options, 100, 1).device_windows, 1000000);  // the processor has no limit of its own
  options.memory_bytes = forward.global_bytes() + 2 * memory.kept + memory.work + 5 * memory.window;
  WalkOptions fitted = fit_memory(forward, options, 100, 1);
  EXPECT_EQ(fitted.device_windows, 5);
  EXPECT_TRUE(fitted.load_early);
  EXPECT_GE(fitted.activation_bytes, options.activation_bytes);
  options.memory_bytes = forward.global_bytes() + memory.kept + memory.work;
  fitted = fit_memory(forward, options, 100, 1);
  EXPECT_EQ(fitted.device_windows, 0);
  EXPECT_EQ(fitted.load_early, memory.kept == 0);
  options.memory_bytes = forward.global_bytes() + memory.work / 2;
  try {
    fit_memory(forward, options, 100, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--seqlen"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("--memory"), std::string::npos) << error.what();
  }
}

// Linears of every layer packed, decoded by the kernel's loops or by the processor: the same losses, whatever memory is left for packed bytes, and the walk
// counts on what they take.
TEST(DeviceWalk, PackedWeightsAreDecodedOnTheDevice) {
  auto toy = toy_model();
  std::int64_t packed = 0;
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(toy.model.config.layers.size()); ++layer) {
    for (const LayerTensor& tensor : layer_tensors(toy.model.config, layer)) {
      if (!tensor.linear()) continue;
      Tensor& stored = toy.model.tensors.at(layer_tensor_name(architecture(toy.model.config.architecture), layer, tensor.name));
      stored = random_packed(stored.shape[0], stored.shape[1], {{4}}, static_cast<std::uint32_t>(++packed), DType::F32);
    }
  }
  const WindowPlan plan = made_up_plan(5, 30, toy.model.config.vocabulary);
  const ForwardPass host(toy.model, ComputeType::Float32, Kernels::Device);
  const Losses expected = walk(host, plan, 2, {});
  const ForwardPass device(toy.model, ComputeType::Float32, Kernels::Device, at::kCPU, &reference::packed_table());
  for (const bool early : {true, false}) {
    WalkOptions options;
    options.load_early = early;
    options.most_windows = 2;
    EXPECT_EQ(walk(device, plan, 2, options), expected);
  }
  EXPECT_EQ(device.packed_loads().by_kernel, packed);
  EXPECT_EQ(device.packed_loads().by_processor, 0) << device.packed_loads().why;

  // What two layers, packed bytes, buffers and states take lets all windows go; a byte less and the next layer comes later.
  const WalkMemory memory = device.walk_memory(30);
  ASSERT_GT(memory.loading, 0u);
  WalkOptions options;
  options.memory_bytes = device.global_bytes() + 2 * memory.kept + memory.loading + memory.work;
  EXPECT_TRUE(fit_memory(device, options, 30, 1).load_early);
  --options.memory_bytes;
  EXPECT_FALSE(fit_memory(device, options, 30, 1).load_early);
  options.memory_bytes = device.global_bytes() + memory.kept + memory.loading + memory.work - 1;
  EXPECT_THROW(fit_memory(device, options, 30, 1), Error);
}

TEST(DeviceWalk, FewerWindowsGoWhenMemoryEnds) {
  const auto toy = toy_model();
  const WindowPlan plan = made_up_plan(16, 64, toy.model.config.vocabulary);
  const ForwardPass forward(toy.model, ComputeType::Float32, Kernels::Device);
  const Losses expected = walk(forward, plan, 1, {});
  const auto window = static_cast<std::int64_t>(forward.walk_memory(64).window);
  std::vector<std::string> said;
  WalkOptions options;
  options.message = [&](const std::string& text) { said.push_back(text); };
  std::int64_t enough = 0;
  {
    // What a walk of one window takes at most, found by trying.
    WalkOptions one;
    one.most_windows = 1;
    WindowPlan single = plan;
    single.windows.resize(1);
    for (enough = window; enough < (std::int64_t{1} << 30); enough += window) {
      SmallMemory small(enough);
      try {
        walk(forward, single, 1, one);
        break;
      } catch (const Error&) {
      }
    }
  }
  SmallMemory small(enough + 3 * window);
  const Losses got = walk(forward, plan, 1, options);
  EXPECT_EQ(got, expected);
  EXPECT_GT(small.refused, 0);
  ASSERT_FALSE(said.empty());
  EXPECT_NE(said.front().find("ran out of memory with 16 windows in flight; going on with 8"), std::string::npos) << said.front();
  EXPECT_EQ(said.size(), 2u) << said.back();
}

TEST(DeviceWalk, OneWindowThatDoesNotFitIsSaid) {
  const auto toy = toy_model();
  const WindowPlan plan = made_up_plan(4, 64, toy.model.config.vocabulary);
  const ForwardPass forward(toy.model, ComputeType::Float32, Kernels::Device);
  SmallMemory small(static_cast<std::int64_t>(forward.walk_memory(64).window));
  try {
    walk(forward, plan, 2, {});
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const char* part : {"runs out of memory with one window of 64 tokens", "--seqlen", "--memory", "--device", "tried to allocate"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
    }
  }
}

}  // namespace
}  // namespace miq::test

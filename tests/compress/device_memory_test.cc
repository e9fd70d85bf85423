// Calibration in the form that GPUs run, on the processor: where memory ends, in a layer or in what is summed, fewer windows are in flight, and each is
// still summed once.
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/hessian.h"
#include "miq/compress/walk.h"
#include "tests/compress/cuda_devices.h"
#include "tests/model/small_model.h"
#include "tests/reference/small_memory.h"

namespace miq {
namespace {

constexpr std::int64_t kWindows = 20, kTokens = 24, kPlenty = std::int64_t{1} << 32;

Config config_of(const std::string& architecture) {
  Config config;
  config.architecture = architecture;
  config.vocabulary = 80;
  config.hidden = 64;
  config.max_positions = 64;
  config.layers.assign(2, {4, 2, 16, 96});
  if (architecture == "mixtral") {
    for (LayerConfig& layer : config.layers) layer.experts = 4, layer.mlp_width = 48;
    config.experts_per_token = 2;
  }
  config.tied_head = true;
  return config;
}

Calibration calibration_of(std::int64_t windows) {
  Calibration calibration;
  for (std::int64_t w = 0; w < windows; ++w) calibration.windows.push_back(test::random_ids(kTokens, 80, static_cast<std::uint32_t>(w)));
  return calibration;
}

// What a walk over the first layer showed: of every place its inputs, window after window.
struct Shown {
  std::map<InputPlace, std::vector<at::Tensor>> inputs;
  std::vector<at::Tensor> hidden;
  std::int64_t in_flight = 0;  // the longest run of windows of one place; means nothing in stages, which show one place
};

// `fails`: asked for each window of a place before it is taken.
Shown walk_layer(const ForwardPass& forward, ThreadPool& pool, bool staged, const std::function<bool()>& fails) {
  const Calibration calibration = calibration_of(kWindows);
  Walk walk(forward, calibration, pool);
  const LayerWeights layer = forward.load_layer(0);
  Shown shown;
  InputPlace last{};
  std::int64_t run = 0;
  const auto observer = [&](InputPlace place, std::span<const at::Tensor> inputs) {
    EXPECT_EQ(inputs.size(), 1u);
    if (fails()) TORCH_CHECK_WITH(OutOfMemoryError, false, "as the test wants it");
    run = place == last ? run + 1 : 1;
    last = place;
    shown.in_flight = std::max(shown.in_flight, run);
    shown.inputs[place].push_back(inputs.front().clone());
  };
  if (!staged) {
    walk.observe(layer, observer, true);
  } else {
    for (const InputSite site : kInputSites) {
      walk.reach(layer, site);
      walk.show(layer, site, observer);
    }
    walk.finish(layer);
  }
  shown.hidden = walk.hidden();
  return shown;
}

void expect_same(const Shown& found, const Shown& expected) {
  ASSERT_EQ(found.inputs.size(), expected.inputs.size());
  for (const auto& [place, inputs] : expected.inputs) {
    const std::vector<at::Tensor>& other = found.inputs.at(place);
    ASSERT_EQ(other.size(), inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(other[i].equal(inputs[i])) << i;
  }
  for (std::size_t w = 0; w < expected.hidden.size(); ++w) EXPECT_TRUE(found.hidden[w].equal(expected.hidden[w])) << w;
}

TEST(DeviceCalibration, WindowsInFlightAreHalvedWhereSumsRunOut) {
  ThreadPool pool(1);
  for (const std::string architecture : {"llama", "mixtral"}) {
    const Model model = test::small_model(config_of(architecture)).model;
    const ForwardPass forward(model, ComputeType::BFloat16, Kernels::Device);
    for (const bool staged : {false, true}) {
      std::int64_t calls = 0;
      const Shown expected = walk_layer(forward, pool, staged, [&] { return ++calls < 0; });
      EXPECT_EQ(expected.in_flight, kWindows);
      // After so many windows memory ends, and again when they come once more.
      for (const std::int64_t after : {std::int64_t{0}, std::int64_t{5}, kWindows + 3, calls - 2}) {
        std::int64_t halved = kWindows;
        for (int times = 1; halved > 1; ++times) {
          halved /= 2;
          std::int64_t call = 0;
          const Shown found = walk_layer(forward, pool, staged, [&] { return ++call > after && call <= after + times; });
          SCOPED_TRACE(architecture + (staged ? ", in stages, " : ", ") + std::to_string(times) + " times after " + std::to_string(after));
          expect_same(found, expected);
          if (after == 0 && !staged) {
            EXPECT_EQ(found.in_flight, halved);
          }
        }
      }
      EXPECT_THROW(walk_layer(forward, pool, staged, [] { return true; }), c10::OutOfMemoryError);
    }
  }
}

TEST(DeviceCalibration, ALayerAndItsSumsShareWhatMemoryThereIs) {
  ThreadPool pool(1);
  const Model model = test::small_model(config_of("llama")).model;
  const ForwardPass forward(model, ComputeType::Float32, Kernels::Device);
  const Calibration calibration = calibration_of(kWindows);
  const LayerWeights layer = forward.load_layer(0);
  struct Found {
    std::map<InputPlace, HessianSum> sums;
    std::vector<at::Tensor> hidden;
    std::int64_t in_flight = 0;
    int refused = 0;  // sums
  };
  const auto sum_layer = [&](std::int64_t limit) {
    Found found;
    Walk walk(forward, calibration, pool);
    {
      reference::SmallMemory memory(limit);
      InputPlace last{};
      std::int64_t run = 0;
      walk.observe(layer, [&](InputPlace place, std::span<const at::Tensor> inputs) {
        try {
          found.sums.try_emplace(place, inputs.front().size(1), emulated_device()).first->second.add(inputs, pool);
        } catch (const c10::OutOfMemoryError&) {
          ++found.refused;
          throw;
        }
        run = place == last ? run + 1 : 1;
        last = place;
        found.in_flight = std::max(found.in_flight, run);
      }, true);
    }
    found.hidden = walk.hidden();
    return found;
  };
  const Found expected = sum_layer(kPlenty);
  EXPECT_EQ(expected.in_flight, kWindows);
  std::map<std::int64_t, int> halved;  // how many memories did for so many windows in flight
  int failed = 0, by_sums = 0;
  for (std::int64_t limit = 100 << 10; halved[kWindows] == 0; limit += 10 << 10) {
    ASSERT_LT(limit, 16 << 20);
    try {
      const Found found = sum_layer(limit);
      ++halved[found.in_flight];
      by_sums += found.refused;
      for (const auto& [place, sum] : expected.sums) {
        const at::Tensor mean = sum.mean(), other = found.sums.at(place).mean();
        EXPECT_EQ(found.sums.at(place).tokens(), sum.tokens());
        EXPECT_LT((mean - other).abs().max().item<float>(), 1e-5 * mean.diagonal().max().item<float>()) << limit;
      }
      for (std::size_t w = 0; w < expected.hidden.size(); ++w) EXPECT_TRUE(found.hidden[w].equal(expected.hidden[w])) << w;
    } catch (const c10::OutOfMemoryError&) {
      ++failed;
      EXPECT_EQ(halved.size(), 1u) << "less memory did";
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(by_sums, 0);
  EXPECT_GT(halved[kWindows / 2], 0);
  EXPECT_GE(halved.size(), 3u);
  for (const auto& [windows, memories] : halved) std::printf("%d memories did for %lld windows\n", memories, static_cast<long long>(windows));
}

// The whole driver: some allocations are refused for a while, somewhere. Where the windows pass it goes on; elsewhere it ends and says what to do.
TEST(DeviceCalibration, ARunThatRanOutMakesTheModelOfOneThatDidNot) {
  const Config config = config_of("llama");
  const Model dense = test::small_model(config).model;
  const Calibration calibration = calibration_of(kWindows);
  for (const std::string method : {"gptq", "mi"}) {
    CompressOptions options;
    options.method = method;
    options.compute = ComputeType::BFloat16;
    options.wbits = 4;
    if (method == "mi") options.mi_estimator = MiEstimator::Binned, options.group_size = 16;
    const Recipe recipe = resolve(options, config);
    const auto run = [&] {
      ThreadPool pool(1);
      return compress(dense, calibration, recipe, pool, {}, {}, nullptr, {}, no_other_ranks(), emulated_device());
    };
    std::int64_t made = 0;
    const CompressResult expected = [&] {
      reference::SmallMemory memory(kPlenty);
      CompressResult result = run();
      made = memory.made();
      return result;
    }();
    int went_on = 0, failed = 0;
    for (std::int64_t after = made / 60; after < made; after += made / 30) {
      reference::SmallMemory memory(kPlenty);
      memory.refuse(after, 4);
      try {
        const CompressResult found = run();
        ++went_on;
        for (const auto& [name, tensor] : expected.model.tensors) {
          EXPECT_TRUE(to_torch(found.model.tensors.at(name), name, at::kFloat).equal(to_torch(tensor, name, at::kFloat))) << name << ", refused after " << after;
        }
        EXPECT_EQ(found.model.statistics, expected.model.statistics);
      } catch (const Error& error) {
        ++failed;
        for (const char* part : {"out of memory", "tried to allocate", "Hessians", "MiB", "--nsamples", "--group-size", "--memory"}) {
          EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in " << error.what();
        }
      }
      EXPECT_GT(memory.refused, 0);
    }
    EXPECT_GT(went_on, 5) << method;
    std::printf("%s: of %d runs %d went on\n", method.c_str(), went_on + failed, went_on);
  }
}

}  // namespace
}  // namespace miq

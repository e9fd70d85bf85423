// The forward pass and generation in the form that GPUs run, on the processor: against the naive reference, and on a GPU where there is one.
#include <ATen/TensorOperators.h>
#include <ATen/ops/norm.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/model/device.h"
#include "miq/model/forward.h"
#include "miq/model/generate.h"
#include "miq/model/shared_prefix.h"
#include "tests/model/small_families.h"
#include "tests/model/small_sliced.h"

namespace miq::test {
namespace {

std::vector<float> all_losses(const ForwardPass& pass, const std::vector<std::int32_t>& ids) {
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t i = 0; i < pass.layers(); ++i) hidden = pass.run_layer(pass.load_layer_to_run(i), hidden);
  return pass.losses(hidden, ids);
}

struct Differences {
  double largest = 0, mean = 0;
};
template <class Expected>
Differences compare(const std::vector<float>& got, const std::vector<Expected>& expected) {
  Differences differences;
  EXPECT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    const double difference = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
    differences.largest = std::max(differences.largest, std::abs(difference));
    differences.mean += difference / static_cast<double>(got.size());
  }
  return differences;
}

std::map<std::string, Config> all_families() {
  std::map<std::string, Config> all = families();
  all["sliced llama"] = sliced_config("llama");
  all["sliced opt"] = sliced_config("opt");
  all["sliced opt"].max_positions = 200;
  all["plain"] = odd_config();
  return all;
}

// Losses on `device` for every family; float32 within 5e-5, bfloat16 within its rounding.
void check_families(at::Device device) {
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config);
    const ForwardPass pass(small.model, ComputeType::Float32, Kernels::Device, device);
    ASSERT_TRUE(pass.device_form());
    EXPECT_EQ(pass.device(), device);
    for (const std::int64_t tokens : {2, 17, 150}) {
      const auto ids = random_ids(tokens, config.vocabulary, 7);
      EXPECT_LT(compare(all_losses(pass, ids), small.oracle.losses(ids)).largest, 5e-5) << name << ", " << tokens << " tokens";
    }
  }
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config, DType::BF16);
    const ForwardPass pass(small.model, ComputeType::BFloat16, Kernels::Device, device);
    const auto ids = random_ids(150, config.vocabulary, 7);
    const Differences differences = compare(all_losses(pass, ids), small.oracle.losses(ids));
    // A rounding may send a token to another expert: single losses may then be anything, their mean may not.
    if (config.experts_per_token == 0) {
      EXPECT_LT(differences.largest, 0.5) << name;
    }
    EXPECT_LT(std::abs(differences.mean), config.experts_per_token == 0 ? 0.02 : 0.04) << name;
  }
}

TEST(DeviceForm, MatchesTheReferenceOnTheProcessor) { check_families(at::kCPU); }

// The other kernels of the processor: the same losses but for the order of sums.
TEST(DeviceForm, IsNearTheOtherKernels) {
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config);
    const auto ids = random_ids(150, config.vocabulary, 3);
    const ForwardPass device(small.model, ComputeType::Float32, Kernels::Device), best(small.model, ComputeType::Float32);
    EXPECT_LT(compare(all_losses(device, ids), all_losses(best, ids)).largest, 5e-5) << name;
  }
}

TEST(DeviceForm, GradientsAreThoseOfTheOtherForm) {
  const SmallModel small = small_model(odd_config());
  const ForwardPass device(small.model, ComputeType::Float32, Kernels::Device), portable(small.model, ComputeType::Float32, Kernels::Portable);
  const auto ids = random_ids(20, small.model.config.vocabulary, 3);
  const at::Tensor hidden = device.embed(ids), gradient = device.loss_gradient(hidden, ids);
  EXPECT_LT((gradient - portable.loss_gradient(hidden, ids)).abs().max().item().toFloat(), 1e-5f);
  const at::Tensor a = device.backward_layer(device.load_layer(0), hidden, gradient, {}), b = portable.backward_layer(portable.load_layer(0), hidden, gradient, {});
  EXPECT_TRUE(a.equal(b));
}

TEST(DeviceForm, SharedPrefixesWork) {
  for (const auto& [name, config] : all_families()) {
    if (!SharedPass::can_share(config)) continue;
    const SmallModel small = small_model(config);
    const ForwardPass pass(small.model, ComputeType::Float32, Kernels::Device);
    const SharedPass shared(pass);
    const auto ids = random_ids(30, config.vocabulary, 5);
    SharedRows rows;
    rows.add(0, 0, std::span(ids).subspan(0, 20));
    rows.add(0, 12, std::span(ids).subspan(20, 10));
    std::vector<std::int32_t> second(ids.begin(), ids.begin() + 12);
    second.insert(second.end(), ids.begin() + 20, ids.end());
    at::Tensor together = shared.embed(rows), alone = pass.embed(second);
    for (std::int64_t i = 0; i < pass.layers(); ++i) {
      const LayerWeights layer = pass.load_layer(i);
      together = shared.run_layer(layer, together, rows);
      alone = pass.run_layer(layer, alone);
    }
    EXPECT_LT((together.narrow(0, 20, 10) - alone.narrow(0, 12, 10)).abs().max().item().toFloat(), 2e-3f) << name;
  }
}

// Prompts, steps of several sequences, and what they leave in the cache.
void check_generation(at::Device device, ComputeType type, double tolerance) {
  ThreadPool pool(2);
  for (const auto& [name, config] : all_families()) {
    if (type == ComputeType::BFloat16 && config.experts_per_token > 0) continue;  // a rounding may choose another expert
    const SmallModel small = small_model(config, type == ComputeType::BFloat16 ? DType::BF16 : DType::F32);
    const Generator here(small.model, type, pool), there(small.model, type, pool, device, Kernels::Device);
    const auto first = random_ids(13, config.vocabulary, 1), second = random_ids(7, config.vocabulary, 2);
    const auto logits = [&](const Generator& generator) {
      Generator::Sequence a = generator.start(40), b = generator.start(40);
      std::vector<at::Tensor> made{generator.extend(a, first), generator.extend(b, second), generator.extend(a, second)};
      Generator::Sequence* both[] = {&a, &b};
      for (const std::int32_t id : {1, 5, 3}) {
        const at::Tensor rows = generator.step(both, std::vector<std::int32_t>{id, id + 1});
        made.push_back(rows.select(0, 0));
        made.push_back(rows.select(0, 1));
      }
      return made;
    };
    const auto expected = logits(here), got = logits(there);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(got[i].device().is_cpu());
      const double distance = ((got[i] - expected[i]).norm() / expected[i].norm()).item().toDouble();
      EXPECT_LT(distance, tolerance) << name << ", step " << i;
    }
  }
}

TEST(DeviceForm, GeneratesTheSame) {
  check_generation(at::kCPU, ComputeType::Float32, 1e-4);
  check_generation(at::kCPU, ComputeType::BFloat16, 0.05);
}

TEST(DeviceForm, MatchesTheReferenceOnAGpu) {
  if (const CudaDevices found = find_cuda_devices(); found.devices.empty()) GTEST_SKIP() << "no GPU: " << found.problem;
  const at::Device device = open_devices(parse_device("cuda")).front();
  check_families(device);
  check_generation(device, ComputeType::Float32, 1e-3);
  check_generation(device, ComputeType::BFloat16, 0.05);
}

}  // namespace
}  // namespace miq::test

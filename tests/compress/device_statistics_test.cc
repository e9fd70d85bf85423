// What runs on a device, run on the CPU by the same operations and by loops in place of kernels (cuda_emulation.h), against the processor's own code; and
// the same on a GPU where there is one.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "miq/base/error.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/compress.h"
#include "miq/compress/hessian.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/spectral.h"
#include "miq/compress/spectral_device.h"
#include "miq/formats/packed_matrix.h"
#include "tests/compress/cuda_devices.h"
#include "tests/compress/solver_inputs.h"
#include "tests/model/small_model.h"
#include "tests/reference/small_memory.h"

namespace miq {
namespace {

// On the emulated device, and on a GPU.
void on_devices(const std::function<void(const ComputeDevice&)>& check) {
  check(emulated_device());
  std::string why;
  if (const auto gpu = gpu_device(&why)) {
    SCOPED_TRACE("on a GPU");
    check(*gpu);
  } else {
    std::printf("not run on a GPU: %s\n", why.c_str());
  }
}

TEST(DeviceStatistics, HessianIsWithinItsBound) {
  ThreadPool pool(2);
  const std::int64_t n = 96, tokens = 3000, calls = 6;
  on_devices([&](const ComputeDevice& where) {
    for (const auto type : {at::kBFloat16, at::kFloat}) {
      HessianSum sum(n, where);
      at::Tensor exact = at::zeros({n, n}, at::kDouble), sizes = at::zeros({n, n}, at::kDouble);
      for (std::int64_t c = 0; c < calls; ++c) {
        const at::Tensor x = random_inputs(tokens, n, 7 + static_cast<unsigned>(c)).to(type);
        const at::Tensor parts[] = {x.narrow(0, 0, 1200).to(where.device), x.narrow(0, 1200, 1800).contiguous().to(where.device)};
        sum.add(parts, pool);
        const at::Tensor wide = x.to(at::kDouble);
        exact += wide.t().mm(wide);
        sizes += wide.abs().t().mm(wide.abs());
      }
      EXPECT_EQ(sum.tokens(), calls * tokens);
      const at::Tensor mean = sum.mean().to(at::kCPU);
      EXPECT_TRUE(mean.equal(mean.t()));
      const double all = static_cast<double>(calls * tokens);
      const at::Tensor error = (mean.to(at::kDouble) * all - exact).abs() / sizes;
      const double bound = static_cast<double>(kDeviceTokens + 2 * calls) * std::ldexp(1.0, -24);
      EXPECT_LT(error.max().item<double>(), bound);
      EXPECT_LT(error.max().item<double>(), 3e-6);
      std::printf("Hessian of %lld tokens, largest error over the sum of sizes: %.2g (bound %.2g)\n", static_cast<long long>(calls * tokens),
                  error.max().item<double>(), bound);
    }
    HessianSum bad(4, where);
    at::Tensor x = random_matrix(10, 4, 1);
    x.mutable_data_ptr<float>()[7] = std::nanf("");
    const at::Tensor one[] = {x.to(where.device)};
    bad.add(one, pool);
    EXPECT_THROW(bad.mean(), Error);
    EXPECT_THROW(HessianSum(5, where).add(one, pool), Error);
  });
}

// Where memory ends fewer rows are summed at once, nothing twice; and where nothing fits the error is LibTorch's.
TEST(DeviceStatistics, HessianMakesDoWithLittleMemory) {
  ThreadPool pool(1);
  const std::int64_t n = 1500, tokens = 64;
  std::vector<at::Tensor> inputs;
  for (unsigned w = 0; w < 3; ++w) inputs.push_back(random_inputs(tokens, n, 3 + w));
  HessianSum plenty(n, emulated_device());
  plenty.add(inputs, pool);
  const at::Tensor expected = plenty.mean();
  HessianSum sum(n, emulated_device());
  std::int64_t refused = 0;
  {
    // Beside the sums, which are there: a panel's product takes 1.2 MB, adding it 4.6 MB more.
    const std::int64_t limits[] = {4 << 20, 2 << 20, 700 << 10};
    for (std::size_t w = 0; w < inputs.size(); ++w) {
      reference::SmallMemory memory(limits[w]);
      sum.add({&inputs[w], 1}, pool);
      EXPECT_GT(memory.refused, 0) << limits[w];
      refused += memory.refused;
    }
  }
  const at::Tensor found = sum.mean();
  EXPECT_LT((found - expected).abs().max().item<float>(), 1e-5 * expected.diagonal().max().item<float>());
  EXPECT_EQ(sum.tokens(), 3 * tokens);
  std::printf("%lld allocations refused, largest difference %.2g\n", static_cast<long long>(refused), (found - expected).abs().max().item<float>());
  // Additions alone halved: the very bits.
  HessianSum halved(n, emulated_device());
  {
    reference::SmallMemory memory(4 << 20);
    halved.add(inputs, pool);
    EXPECT_GT(memory.refused, 0);
  }
  EXPECT_TRUE(halved.mean().equal(expected));
  reference::SmallMemory memory(1000);
  EXPECT_THROW(sum.add({&inputs[0], 1}, pool), c10::OutOfMemoryError);
}

// What was added before memory ended stays, and the call is repeated until it ends well.
TEST(DeviceStatistics, HessianGoesOnWhereMemoryEnded) {
  ThreadPool pool(1);
  const std::int64_t n = 500, tokens = 64;
  std::vector<at::Tensor> inputs;
  for (unsigned w = 0; w < 3; ++w) inputs.push_back(random_inputs(tokens, n, 3 + w));
  HessianSum plenty(n, emulated_device());
  plenty.add(inputs, pool);
  const at::Tensor expected = plenty.mean();
  const float largest = expected.diagonal().max().item<float>();
  int most = 0;
  double difference = 0;
  for (std::int64_t after = 0; after < 120; after += 3) {
    HessianSum sum(n, emulated_device());
    int ended = 0;
    {
      reference::SmallMemory memory(std::int64_t{1} << 30);
      memory.refuse(after, 30);
      for (bool done = false; !done;) {
        try {
          sum.add(inputs, pool);
          done = true;
        } catch (const c10::OutOfMemoryError&) {
          ++ended;
        }
        ASSERT_LT(ended, 31);
      }
    }
    most = std::max(most, ended);
    EXPECT_EQ(sum.tokens(), 3 * tokens);
    difference = std::max<double>(difference, (sum.mean() - expected).abs().max().item<float>());
    EXPECT_LT(difference, 1e-5 * largest) << after;
  }
  EXPECT_GT(most, 3);
  std::printf("ended up to %d times, largest difference %.2g of the largest entry\n", most, difference / largest);
}

TEST(DeviceStatistics, ChannelsAreTheCpus) {
  ThreadPool pool(2);
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    ChannelStatistics cpu, device;
    for (unsigned c = 0; c < 3; ++c) {
      const at::Tensor x = random_inputs(200, 70, c).to(type);
      accumulate(cpu, x, pool);
      accumulate_on_device(device, x);
    }
    EXPECT_EQ(device.tokens, cpu.tokens);
    for (std::size_t j = 0; j < 70; ++j) {
      // Parts are rounded to 24 bits.
      EXPECT_NEAR(device.sum[j], cpu.sum[j], 2e-7 * cpu.sum_abs[j]);
      EXPECT_NEAR(device.sum_abs[j], cpu.sum_abs[j], 2e-7 * cpu.sum_abs[j]);
      EXPECT_NEAR(device.sum_squares[j], cpu.sum_squares[j], 2e-7 * cpu.sum_squares[j]);
      EXPECT_NEAR(device.sum_fourths[j], cpu.sum_fourths[j], 2e-7 * cpu.sum_fourths[j]);
    }
    EXPECT_THROW(accumulate_on_device(device, random_matrix(3, 9, 1)), Error);
  }
}

TEST(DeviceStatistics, FactorIsTheCpus) {
  ThreadPool pool(2);
  const std::int64_t n = 130;
  at::Tensor inputs = random_inputs(300, n, 3);
  inputs.select(1, 17).zero_();
  const at::Tensor hessian = hessian_of(inputs, pool);
  on_devices([&](const ComputeDevice& where) {
    for (const auto dead : {DeadColumns::Keep, DeadColumns::Zero}) {
      const auto order = order_by_diagonal(hessian);
      const auto cpu = factor_inverse(hessian, order, {0.01, dead}, pool), device = factor_inverse(hessian.to(where.device), order, {0.01, dead}, pool, where);
      ASSERT_TRUE(cpu && device);
      EXPECT_EQ(device->order, cpu->order);
      EXPECT_EQ(device->dead, cpu->dead);
      EXPECT_EQ(device->scale, cpu->scale);
      EXPECT_EQ(device->damping, cpu->damping);
      EXPECT_LT((device->upper.to(at::kCPU) - cpu->upper).abs().max().item<double>(), 1e-6 * cpu->upper.abs().max().item<double>());
      for (std::size_t j = 0; j < cpu->inverse_diagonal.size(); ++j) EXPECT_NEAR(device->inverse_diagonal[j], cpu->inverse_diagonal[j], 1e-8 * cpu->inverse_diagonal[j]);
    }
    // Not positive definite: more damping is needed; not finite: none helps.
    at::Tensor indefinite = hessian.clone();
    indefinite.diagonal().sub_(0.05 * hessian.diagonal().mean());
    const auto cpu = factor_inverse(indefinite, natural_order(n), {}, pool), device = factor_inverse(indefinite.to(where.device), natural_order(n), {}, pool, where);
    ASSERT_EQ(cpu.has_value(), device.has_value());
    EXPECT_EQ(cpu ? cpu->damping : 0, device ? device->damping : 0);
    indefinite.select(0, 3).fill_(std::numeric_limits<float>::infinity());
    EXPECT_FALSE(factor_inverse(indefinite.to(where.device), natural_order(n), {}, pool, where));
    const at::Tensor a = random_matrix(70, n, 1), b = random_matrix(70, n, 2);
    EXPECT_NEAR(output_error(a, b, hessian.to(where.device), pool), output_error(a, b, hessian, pool), 1e-5 * output_error(a, b, hessian, pool));
  });
}

TEST(DeviceStatistics, MutualInformationIsTheCpus) {
  ThreadPool pool(2);
  const std::int64_t n = 77;
  at::Tensor inputs = random_inputs(900, n, 5);
  inputs.select(1, 3).fill_(2);
  inputs.select(1, 9).copy_(inputs.select(1, 8));
  inputs.narrow(1, 20, 5).round_();
  const at::Tensor hessian = hessian_of(inputs, pool);
  const at::Tensor means = inputs.to(at::kDouble).mean(0);
  const std::vector<double> mean(means.const_data_ptr<double>(), means.const_data_ptr<double>() + n);
  const at::Tensor gaussian = gaussian_mutual_information(hessian, mean, pool), wide = gaussian_mutual_information(hessian.to(at::kDouble), mean, pool);
  const at::Tensor binned = binned_mutual_information(inputs, pool);
  on_devices([&](const ComputeDevice& where) {
    const auto close = [](const at::Tensor& device, const at::Tensor& cpu) { return (device.to(at::kCPU) - cpu).abs().max().item<double>(); };
    EXPECT_LT(close(gaussian_mutual_information(hessian.to(where.device), mean, pool, where), gaussian), 1e-6);
    EXPECT_LT(close(gaussian_mutual_information(hessian.to(where.device, at::kDouble), mean, pool, where), wide), 1e-6);
    EXPECT_LT(close(binned_mutual_information(inputs.to(where.device), pool, where), binned), 1e-6);
    at::Tensor bad = hessian.clone();
    bad.mutable_data_ptr<float>()[5] = std::numeric_limits<float>::infinity();
    EXPECT_THROW(gaussian_mutual_information(bad.to(where.device), mean, pool, where), Error);
    at::Tensor samples = inputs.clone();
    samples.mutable_data_ptr<float>()[5] = std::nanf("");
    EXPECT_THROW(binned_mutual_information(samples.to(where.device), pool, where), Error);
  });
}

// An affinity with `clusters` planted blocks; channel j belongs to block j mod clusters.
at::Tensor planted_affinity(std::int64_t n, std::int64_t clusters, unsigned seed, float noise) {
  at::Tensor a = random_matrix(n, n, seed).abs().mul(noise);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i % clusters; j < n; j += clusters) a.mutable_data_ptr<float>()[i * n + j] += 1;
  return (a + a.t()).contiguous();
}

// Sum of the leading eigenvalues: what a block of vectors catches of them.
void expect_leading(const at::Tensor& affinity, std::int64_t count, double tolerance, const ComputeDevice& where) {
  const at::Tensor wide = affinity.to(at::kDouble), scale = wide.sum(1).rsqrt();
  const at::Tensor matrix = wide * scale.unsqueeze(1) * scale.unsqueeze(0);
  const auto [values, vectors] = at::linalg_eigh(matrix);
  std::vector<double> found;
  const at::Tensor block = leading_eigenvectors_on_device(matrix.to(where.device, at::kFloat), count, 3, &found).to(at::kCPU);
  const at::Tensor gram = block.t().mm(block);
  EXPECT_LT((gram - at::eye(count, at::kDouble)).abs().max().item<double>(), 1e-9);
  double full = 0, caught = 0;
  for (std::int64_t c = 0; c < count; ++c) {
    full += values.const_data_ptr<double>()[values.numel() - 1 - c];
    caught += found[static_cast<std::size_t>(c)];
  }
  EXPECT_NEAR(found[0], 1, 1e-5);
  EXPECT_LE(caught, full * (1 + 1e-5));
  EXPECT_GE(caught, full * (1 - tolerance));
}

TEST(DeviceSpectral, CatchesWhatTheFullSolutionDoes) {
  on_devices([&](const ComputeDevice& where) {
    expect_leading(planted_affinity(240, 12, 1, 0.05f), 12, 1e-5, where);
    expect_leading(planted_affinity(300, 7, 2, 0.5f), 7, 1e-4, where);
    // As of real inputs: mutual information of channels that share a few factors, without clear blocks.
    ThreadPool pool(2);
    const at::Tensor inputs = random_inputs(800, 256, 4), hessian = hessian_of(inputs, pool);
    const at::Tensor information = gaussian_mutual_information(hessian, std::vector<double>(256, 0.0), pool);
    expect_leading(information, 8, 0.02, where);
  });
}

TEST(DeviceSpectral, FindsPlantedClusters) {
  ThreadPool pool(2);
  on_devices([&](const ComputeDevice& where) {
    for (const std::int64_t clusters : {3, 8, 20}) {
      const at::Tensor affinity = planted_affinity(260, clusters, 9, 0.05f);
      const auto labels = spectral_clusters(affinity, clusters, 1, pool, where);
      for (std::size_t j = 0; j < labels.size(); ++j) EXPECT_EQ(labels[j], static_cast<std::int32_t>(j % static_cast<std::size_t>(clusters)));
      EXPECT_EQ(spectral_clusters(affinity, clusters, 1, pool, where), labels);
    }
    EXPECT_EQ(spectral_clusters(at::zeros({40, 40}), 4, 0, pool, where).size(), 40u);
    EXPECT_THROW(spectral_clusters(at::zeros({9, 9}) - 1, 4, 0, pool, where), Error);
  });
}

// The whole driver on a device: as good as on the processor, and the same every time.
TEST(DeviceCompress, IsAsGoodAsTheCpu) {
  Config c;
  c.architecture = "llama";
  c.vocabulary = 80;
  c.hidden = 64;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 16, 96});
  c.tied_head = true;
  const Model dense = test::small_model(c).model;
  Calibration calibration;
  for (std::uint32_t w = 0; w < 20; ++w) calibration.windows.push_back(test::random_ids(24, 80, w));
  ThreadPool pool(2);
  for (const std::string method : {"sparsegpt", "gptq", "wanda", "enhanced", "mi", "mixed"}) {
    SCOPED_TRACE(method);
    CompressOptions options;
    options.method = method;
    options.compute = ComputeType::BFloat16;
    if (method == "sparsegpt" || method == "wanda") options.sparsity = 0.5;
    if (method == "mi" || method == "mixed" || method == "enhanced") {
      options.target_avg_bits = 4;
    } else {
      options.wbits = 4;
    }
    const Recipe recipe = resolve(options, c);
    const CompressResult cpu = compress(dense, calibration, recipe, pool);
    on_devices([&](const ComputeDevice& where) {
      const int before = reference::packed_decodes_made();
      const CompressResult first = compress(dense, calibration, recipe, pool, {}, {}, nullptr, {}, no_other_ranks(), where);
      // The windows go on through what a layer has become, which the kernel decodes.
      if (where.device.is_cpu()) {
        EXPECT_GT(reference::packed_decodes_made(), before);
      }
      const CompressResult again = compress(dense, calibration, recipe, pool, {}, {}, nullptr, {}, no_other_ranks(), where);
      EXPECT_EQ(first.fallbacks, cpu.fallbacks);
      double cpu_distance = 0, device_distance = 0;
      for (const auto& [name, tensor] : dense.tensors) {
        const at::Tensor w = to_torch(tensor, name, at::kFloat), on_cpu = to_torch(cpu.model.tensors.at(name), name, at::kFloat),
                         on_device = to_torch(first.model.tensors.at(name), name, at::kFloat);
        EXPECT_TRUE(on_device.equal(to_torch(again.model.tensors.at(name), name, at::kFloat))) << name;
        cpu_distance += (w - on_cpu).square().sum().item<double>();
        device_distance += (w - on_device).square().sum().item<double>();
      }
      EXPECT_NEAR(device_distance, cpu_distance, 0.02 * cpu_distance);
    });
  }
}

}  // namespace
}  // namespace miq

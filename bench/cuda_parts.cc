// The parts of a compression at the shapes of a layer, each against its floors: operations over the rate of a large product of the same type, and bytes
// over the rate of a large copy, both measured here.
//
//   cuda_parts DEVICE SHAPE [LIBRARY]     DEVICE: cpu, cuda, cuda:N; SHAPE: 7b, 70b, small; LIBRARY: libmiq_cuda.so, where DEVICE is a GPU
//
// On the CPU these are the processor's own implementations.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/compress/allocate.h"
#include "miq/compress/channel_statistics.h"
#include "miq/compress/device_sweep.h"
#include "miq/compress/mutual_information.h"
#include "miq/compress/spectral.h"
#include "miq/model/device.h"

namespace {

using namespace miq;

struct Site {
  const char* name;
  std::int64_t inputs;
  std::vector<std::int64_t> rows;  // of the linears that read it
};
struct Shape {
  std::string name;
  std::int64_t layers, windows;
  std::vector<Site> sites;
};

Shape shape_of(const std::string& name) {
  if (name == "7b") return {name, 32, 128, {{"attention", 4096, {4096, 4096, 4096}}, {"attention output", 4096, {4096}}, {"mlp", 4096, {11008, 11008}}, {"mlp output", 11008, {4096}}}};
  if (name == "70b") return {name, 80, 128, {{"attention", 8192, {8192, 1024, 1024}}, {"attention output", 8192, {8192}}, {"mlp", 8192, {28672, 28672}}, {"mlp output", 28672, {8192}}}};
  if (name == "small") return {name, 4, 4, {{"attention", 256, {256, 256, 256}}, {"mlp output", 688, {256}}}};
  throw UsageError("shape '" + name + "': give 7b, 70b or small");
}

class Bench {
 public:
  explicit Bench(const ComputeDevice& where) : where_(where), options_(at::TensorOptions(at::kFloat).device(where.device)) {
    const std::int64_t n = where.device.is_cpu() ? 768 : 8192;
    for (const auto type : {at::kBFloat16, at::kFloat, at::kDouble}) {
      const std::int64_t size = type == at::kDouble ? n / 2 : n;
      const at::Tensor a = at::randn({size, size}, options_).to(type), b = at::randn({size, size}, options_).to(type);
      rate(type) = 2.0 * static_cast<double>(size * size * size) / seconds([&] { at::mm(a, b); }, 5);
    }
    const std::int64_t count = where.device.is_cpu() ? (1 << 24) : (std::int64_t{1} << 30);
    const at::Tensor from = at::zeros({count}, options_.dtype(at::kByte));
    at::Tensor to = at::empty({count}, from.options());
    copy_ = 2.0 * static_cast<double>(count) / seconds([&] { to.copy_(from); }, 5);
    std::printf("rates: bfloat16 %.1f, float32 %.1f, float64 %.1f TFLOP/s; copies %.0f GB/s\n\n", bf16_ / 1e12, f32_ / 1e12, f64_ / 1e12, copy_ / 1e9);
    std::printf("%-52s %10s %12s %12s %8s\n", "part", "seconds", "operations", "bytes", "times");
  }

  double& rate(at::ScalarType type) { return type == at::kBFloat16 ? bf16_ : type == at::kFloat ? f32_ : f64_; }

  // The fastest of some runs, after one that is not counted.
  double seconds(const std::function<void()>& work, int runs) {
    double best = 1e30;
    for (int run = 0; run <= runs; ++run) {
      synchronize(where_.device);
      const auto start = std::chrono::steady_clock::now();
      work();
      synchronize(where_.device);
      if (run > 0 || runs == 0) best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  }

  void part(const std::string& name, double times, double operations, at::ScalarType type, double bytes, const std::function<void()>& work) {
    const double taken = seconds(work, 2), by_operations = operations / rate(type), by_bytes = bytes / copy_;
    std::printf("%-52s %10.4f %12.4f %12.4f %8.1f\n", name.c_str(), taken, by_operations, by_bytes, taken / std::max({by_operations, by_bytes, 1e-12}));
    std::fflush(stdout);
    total_ += times * taken;
    floor_ += times * std::max(by_operations, by_bytes);
  }

  const at::TensorOptions& options() const { return options_; }
  double total() const { return total_; }
  double floor() const { return floor_; }

 private:
  ComputeDevice where_;
  at::TensorOptions options_;
  double bf16_ = 0, f32_ = 0, f64_ = 0, copy_ = 0, total_ = 0, floor_ = 0;
};

void measure_site(Bench& bench, const ComputeDevice& where, const Shape& shape, const Site& site, ThreadPool& pool) {
  const at::NoGradGuard no_grad;
  const std::int64_t n = site.inputs, tokens = where.device.is_cpu() ? 1024 : kDeviceTokens;
  const auto wide = static_cast<double>(n);
  const std::string at_site = " (" + std::string(site.name) + ", " + std::to_string(n) + ")";
  const double calls = static_cast<double>(shape.layers * shape.windows) * 2048 / static_cast<double>(tokens), layers = static_cast<double>(shape.layers);
  at::Tensor x = at::randn({tokens, n}, bench.options());
  for (std::int64_t j = 0; j + 8 < n; j += 8) x.narrow(1, j, 8).add_(x.narrow(1, j, 1).clone());
  x = x.to(at::kBFloat16).contiguous();
  HessianSum sum(n, where);
  ChannelStatistics channels;
  const at::Tensor batch[] = {x};
  bench.part("Hessian of " + std::to_string(tokens) + " tokens" + at_site, calls, 2.0 * static_cast<double>(tokens) * wide * wide, at::kBFloat16,
             2.0 * static_cast<double>(tokens) * wide + 8 * wide * wide, [&] { sum.add(batch, pool); });
  bench.part("means and moments" + at_site, calls, 8.0 * static_cast<double>(tokens) * wide, at::kDouble, 2.0 * static_cast<double>(tokens) * wide,
             [&] { accumulate(channels, x, pool); });
  const at::Tensor hessian = sum.mean();
  at::Tensor information;
  bench.part("mutual information" + at_site, layers, 40.0 * wide * wide / 2, at::kDouble, 8 * wide * wide,
             [&] { information = gaussian_mutual_information(hessian, channels.mean(), pool, where); });
  bench.part("mutual information, binned, 2048 tokens" + at_site, 0, 2048.0 * wide * wide / 2, at::kFloat, 4 * wide * wide, [&] {
    binned_mutual_information(x.narrow(0, 0, std::min<std::int64_t>(2048, tokens)).to(at::kFloat).contiguous(), pool, where);
  });
  const std::int64_t clusters = std::max<std::int64_t>(2, n / 64);
  const double products = 37, width = static_cast<double>(clusters + 8);
  bench.part("spectral clusters, " + std::to_string(clusters) + at_site, 0, products * 2 * wide * wide * width, at::kFloat, products * 4 * wide * wide,
             [&] { spectral_clusters(information, clusters, 1, pool, where); });
  information = at::Tensor();
  std::optional<InverseFactor> factor;
  bench.part("factor of the inverse" + at_site, layers, 4.0 / 3 * wide * wide * wide, at::kDouble, 24 * wide * wide,
             [&] { factor = factor_inverse(hessian, natural_order(n), {}, pool, where); });
  if (!factor) throw Error("the random Hessian could not be factored");
  std::vector<SweepMatrix> sparse, mixed;
  double rows = 0;
  for (std::int64_t count : site.rows) {
    SweepMatrix matrix;
    matrix.weights = at::randn({count, n}, at::kFloat).mul_(0.02);
    matrix.groups.group_of_column.assign(static_cast<std::size_t>(n), 0);
    matrix.groups.bits_of_group = {4};
    sparse.push_back(matrix);
    matrix.groups.bits_of_group.assign(static_cast<std::size_t>((n + 31) / 32), 4);
    for (std::int64_t j = 0; j < n; ++j) matrix.groups.group_of_column[static_cast<std::size_t>(j)] = static_cast<std::uint16_t>(j / 32);
    mixed.push_back(matrix);
    rows += static_cast<double>(count);
  }
  SweepOptions sparsegpt, groups;
  sparsegpt.pruning = {Pruning::Kind::SparseGpt, 0.5, 0, 0};
  groups.timing = GridTiming::Dynamic;
  groups.clips = solving_clips();
  groups.scale_bits = 6;
  // In and out: float32 weights, codes and masks.
  bench.part("sweep, half zeros and 4 bits, copies included" + at_site, layers, rows * wide * wide, at::kFloat, rows * wide * 10, [&] { sweep_on(where, sparse, *factor, sparsegpt, pool); });
  bench.part("sweep, groups of 32 with clips, copies included" + at_site, 0, rows * wide * wide, at::kFloat, rows * wide * 9, [&] { sweep_on(where, mixed, *factor, groups, pool); });
  bench.part("errors of the outputs" + at_site, 2 * layers, 2 * rows * wide * wide, at::kFloat, 8 * rows * wide, [&] {
    for (const SweepMatrix& matrix : sparse) output_error(matrix.weights, at::zeros_like(matrix.weights), hessian, pool);
  });
}

// Widths for the groups of a layer with this many input channels, by predicted loss: the processor's work, whatever the device.
void measure_allocation(std::int64_t channels, std::int64_t group, Bench& bench) {
  const std::int64_t items = channels / group;
  std::vector<double> loss, kept(static_cast<std::size_t>(items), static_cast<double>(group) * 4096);
  for (std::int64_t i = 0; i < items; ++i) {
    double level = 1 + static_cast<double>((i * 7919) % items);
    for (int l = 0; l < 5; ++l, level /= 4.5) loss.push_back(level);
  }
  const double taken = bench.seconds([&] { allocate_global(loss, kept, 4.0); }, 5);
  std::printf("allocation, %lld channels in groups of %lld: %.3f ms\n", static_cast<long long>(channels), static_cast<long long>(group), 1e3 * taken);
}

void run(int argc, char** argv) {
  const DeviceChoice choice = parse_device(argv[1]);
  const Shape shape = shape_of(argv[2]);
  ComputeDevice where;
  where.device = open_devices(choice).front();
  if (!where.device.is_cpu()) {
    if (argc < 4) throw UsageError("name libmiq_cuda.so: cuda_parts " + std::string(argv[1]) + " " + shape.name + " build/cuda/lib/miq/libmiq_cuda.so");
    where.kernels = &open_cuda_library(argv[3]).kernels;
  }
  ThreadPool pool;
  std::printf("%s on %s\n", shape.name.c_str(), where.device.is_cpu() ? "the processor" : device_name(where.device).c_str());
  Bench bench(where);
  for (const Site& site : shape.sites) measure_site(bench, where, shape, site, pool);
  std::printf("\nsparsegpt, %lld layers and %lld windows of 2048, without the forward pass: %.1f s, floors %.1f s\n", static_cast<long long>(shape.layers),
              static_cast<long long>(shape.windows), bench.total(), bench.floor());
  for (const std::int64_t channels : {5120, 8192, 11008, 13824}) {
    for (const std::int64_t group : {1, 32}) measure_allocation(channels, group, bench);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: cuda_parts DEVICE SHAPE [LIBRARY]\n");
    return 2;
  }
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_parts: %s\n", error.what());
    return 1;
  }
}

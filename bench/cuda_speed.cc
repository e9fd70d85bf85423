// Evaluation on a GPU, measured against what that GPU can do: one line a figure, "NAME VALUE UNIT". bench/cuda.sh runs it.
//
//   cuda_speed DEVICE [KERNELS [LAYERS WINDOWS]]       DEVICE as --device; KERNELS: libmiq_cuda.so
//
// The model has Llama-2-7B's shape and random weights with the deviations of real ones; all its layers are one layer's bytes, read, copied
// and computed as often as there are layers. What it predicts does not matter to the time; the comparison with float32 on the
// processor is on its first layers, where the losses' size is that of random predictions.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/evaluate/perplexity.h"
#include "miq/formats/cast.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/packed_view.h"
#include "miq/model/device.h"

namespace {

using namespace miq;

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Normal-looking numbers, fast: sums of four bytes of a counter's hash.
Tensor random_tensor(const Shape& shape, float deviation, float mean, std::uint64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count) * 2);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u + seed;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 27;
    const auto sum = static_cast<float>((x & 0xFFFF) + ((x >> 16) & 0xFFFF) + ((x >> 32) & 0xFFFF) + (x >> 48));
    const std::uint16_t bits = f32_to_bf16(mean + deviation * (sum - 131070.0f) / 37837.0f);
    std::memcpy(bytes.data() + i * 2, &bits, 2);
  }
  return dense_tensor(DType::BF16, shape, Blob(std::move(bytes)));
}

Model llama_shaped(std::int64_t layers) {
  Model model;
  model.name = "Llama-2-7B's shape";
  Config& config = model.config;
  config.architecture = "llama";
  config.vocabulary = 32000;
  config.hidden = 4096;
  config.max_positions = 4096;
  for (std::int64_t i = 0; i < layers; ++i) config.layers.push_back({32, 32, 128, 11008});
  std::map<std::string, Tensor> made;  // one layer's, for all
  for (const ExpectedTensor& expected : expected_tensors(config)) {
    const std::string prefix = "model.layers.";
    std::string key = expected.name;
    if (key.starts_with(prefix)) key = key.substr(key.find('.', prefix.size()));
    if (!made.contains(key)) {
      const bool norm = expected.shape.size() == 1;
      made.emplace(key, norm ? random_tensor(expected.shape, 0.02f, 1, made.size()) : random_tensor(expected.shape, 0.02f, 0, made.size()));
    }
    model.tensors.emplace(expected.name, made.at(key));
  }
  return model;
}

WindowPlan plan_of(std::int64_t windows, std::int64_t seqlen) {
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.text_tokens = windows * seqlen;
  std::mt19937 random(5);
  for (std::int64_t i = 0; i < plan.text_tokens; ++i) plan.tokens.push_back(static_cast<std::int32_t>(random() % 32000));
  for (std::int64_t w = 0; w < windows; ++w) plan.windows.push_back({static_cast<std::size_t>(w * seqlen), static_cast<std::size_t>(seqlen), 0});
  return plan;
}

void say(const char* name, double value, const char* unit) {
  std::printf("%-44s %12.4g %s\n", name, value, unit);
  std::fflush(stdout);
}

// Operations a second of bfloat16 products as the layers have them.
double product_rate(at::Device device) {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions(at::kBFloat16).device(device);
  const std::int64_t m = device.is_cpu() ? 256 : 8192, k = device.is_cpu() ? 1024 : 4096, n = device.is_cpu() ? 1024 : 11008;
  const at::Tensor a = at::ones({m, k}, options) * 0.01, b = at::ones({k, n}, options) * 0.01;
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const int times = device.is_cpu() ? 2 : 20;
    synchronize(device);
    const double started = seconds_now();
    for (int i = 0; i < times; ++i) at::mm(a, b);
    synchronize(device);
    best = std::max(best, 2.0 * static_cast<double>(m * k * n) * times / (seconds_now() - started));
  }
  return best;
}

void evaluation(at::Device device, std::int64_t layers, std::int64_t windows) {
  const double rate = product_rate(device);
  say("bfloat16 product rate", rate * 1e-12, "TFLOP/s");
  const std::int64_t seqlen = device.is_cpu() ? 64 : 2048;
  const Model model = llama_shaped(layers);
  const ForwardPass forward(model, ComputeType::BFloat16, Kernels::Device, device);
  ThreadPool pool;
  const auto run = [&](std::int64_t count) {
    const WindowPlan plan = plan_of(count, seqlen);
    WalkStatistics statistics;
    walk_windows(forward, {&plan}, pool, {}, {}, statistics);
    return statistics.seconds;
  };
  run(2);  // libraries load their kernels, caches fill
  const double seconds = run(windows);
  const double weights = static_cast<double>(layers) * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008) + 32000.0 * 4096;
  // Causal attention: half of the scores and of the mixing.
  const double operations = static_cast<double>(windows * seqlen) * (2 * weights + static_cast<double>(layers * 2 * seqlen) * 4096);
  say("windows", static_cast<double>(windows), (std::to_string(seqlen) + " tokens each").c_str());
  say("evaluation", seconds, "s");
  say("evaluation", static_cast<double>(windows * seqlen) / seconds, "tokens/s");
  say("evaluation's rate", operations / seconds * 1e-12, "TFLOP/s");
  say("evaluation's rate over the product rate", operations / seconds / rate, "(goal: at least 0.6 on a GPU)");
}

void losses(at::Device device) {
  const Model model = llama_shaped(2);
  ThreadPool pool;
  const WindowPlan plan = plan_of(1, 256);
  const auto mean = [&](const ForwardPass& forward) {
    WalkStatistics statistics;
    const auto all = walk_windows(forward, {&plan}, pool, {}, {}, statistics);
    double sum = 0;
    for (const float loss : all[0][0]) sum += static_cast<double>(loss);
    return sum / static_cast<double>(all[0][0].size());
  };
  const double exact = mean(ForwardPass(model, ComputeType::Float32)), here = mean(ForwardPass(model, ComputeType::BFloat16, Kernels::Device, device));
  say("mean loss, float32 on the processor", exact, "nats");
  say("mean loss, bfloat16 on the device", here, "nats");
  say("their relative difference", std::abs(here / exact - 1), "(goal: below 0.002)");
}

at::Tensor on_device(const void* data, std::uint64_t bytes, at::Device device) {
  return at::from_blob(const_cast<void*>(data), {static_cast<std::int64_t>(bytes)}, at::TensorOptions(at::kByte)).to(device).clone();
}

template <class Value>
const Value* keep(std::vector<at::Tensor>& all, const std::vector<Value>& values, at::Device device) {
  if (values.empty()) return nullptr;
  all.push_back(on_device(values.data(), values.size() * sizeof(Value), device));
  return static_cast<const Value*>(all.back().const_data_ptr());
}

// A random packed matrix of 11008 x 4096 with a group every 128 columns.
Tensor packed_matrix(std::uint8_t bits, bool masked) {
  PackedMatrix matrix;
  matrix.rows = 11008;
  matrix.cols = 4096;
  std::mt19937 random(bits);
  matrix.bits_of_group.assign(32, bits);
  for (std::int64_t c = 0; c < matrix.cols; ++c) matrix.group_of_column.push_back(static_cast<std::uint16_t>(c / 128));
  for (std::int64_t i = 0; i < matrix.rows * 32; ++i) {
    matrix.scales.push_back(f16_to_f32(f32_to_f16(0.01f + 1e-7f * static_cast<float>(random() % 1000))));
    matrix.zeros.push_back(static_cast<std::uint8_t>(random() % (1u << bits)));
  }
  for (std::int64_t i = 0; i < matrix.rows * matrix.cols; ++i) {
    if (masked) matrix.kept.push_back(random() % 2);
    matrix.codes.push_back(masked && !matrix.kept.back() ? 0 : static_cast<std::uint8_t>(random() % (1u << bits)));
  }
  return pack(matrix, DType::BF16);
}

void packed(at::Device device, const std::string& library) {
  const at::NoGradGuard no_grad;
  const MiqCudaTable& table = open_cuda_library(library).kernels;
  const auto floats = at::TensorOptions(at::kFloat).device(device);
  const at::Tensor large = at::ones({std::int64_t{1} << 28}, floats);
  large.clone();
  synchronize(device);
  double started = seconds_now();
  for (int i = 0; i < 20; ++i) large.clone();
  synchronize(device);
  const double bandwidth = 20.0 * 2 * static_cast<double>(large.nbytes()) / (seconds_now() - started);
  say("memory bandwidth of a copy", bandwidth * 1e-9, "GB/s");
  for (const bool masked : {false, true}) {
    for (const std::uint8_t bits : {2, 3, 4, 6, 8}) {
      const Tensor tensor = packed_matrix(bits, masked);
      const PackedArrays arrays = packed_arrays(tensor, "w");
      // Several copies in turn, so that none is found in the cache.
      std::vector<std::vector<at::Tensor>> kept(8);
      std::vector<PackedView> views;
      for (auto& all : kept) {
        PackedView view = arrays.view();
        view.octet = keep(all, arrays.octets, device);
        view.group = keep(all, arrays.groups, device);
        view.codes = keep(all, arrays.codes, device);
        view.zeros = keep(all, arrays.zeros, device);
        view.mask = keep(all, arrays.mask, device);
        view.scales = keep(all, arrays.scales, device);
        view.kept_before = keep(all, arrays.kept_before, device);
        view.column_of_place = keep(all, arrays.column_of_place, device);
        views.push_back(view);
      }
      at::Tensor x = at::ones({arrays.cols}, floats), y = at::ones({arrays.rows}, floats);
      at::Tensor decoded = at::ones({arrays.rows, arrays.cols}, floats.dtype(at::kBFloat16));
      const auto time = [&](const auto& call) {
        for (const PackedView& view : views) call(view);
        synchronize(device);
        const double from = seconds_now();
        for (int i = 0; i < 200; ++i) call(views[static_cast<std::size_t>(i) % views.size()]);
        synchronize(device);
        return (seconds_now() - from) / 200;
      };
      const int index = device.index();
      const double product = time([&](const PackedView& view) {
        check_cuda(table, table.packed_product(index, &view, x.const_data_ptr<float>(), y.data_ptr<float>()), "a packed product");
      });
      const double decode = time([&](const PackedView& view) {
        check_cuda(table, table.packed_decode(index, &view, packed_rounding(tensor.dtype), 0, decoded.data_ptr()), "decoding");
      });
      const at::Tensor wanted = decoded.to(at::kFloat).mv(x);
      const std::string label = std::to_string(bits) + " bits" + (masked ? ", masked" : "");
      const auto stored = static_cast<double>(tensor.stored_bytes());
      say((label + ": product").c_str(), stored / product * 1e-9, "GB/s of stored bytes");
      say((label + ": product over bandwidth").c_str(), stored / product / bandwidth, "(goal: at least 0.6)");
      say((label + ": decoding").c_str(), (stored + 2.0 * static_cast<double>(arrays.rows * arrays.cols)) / decode * 1e-9, "GB/s read and written");
      say((label + ": product against decoded").c_str(), ((y - wanted).norm() / wanted.norm()).item().toDouble(), "(below 0.01)");
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc == 4 || argc > 5) throw UsageError("usage: cuda_speed DEVICE [KERNELS [LAYERS WINDOWS]]; see the head of cuda_speed.cc");
  use_single_threaded_torch();
  const at::Device device = open_devices(parse_device(argv[1])).front();
  std::printf("device: %s %s\n", device.str().c_str(), device_name(device).c_str());
  evaluation(device, argc > 4 ? std::stoll(argv[3]) : 32, argc > 4 ? std::stoll(argv[4]) : 128);
  losses(device);
  if (argc > 2 && !device.is_cpu()) {
    packed(device, argv[2]);
  } else {
    std::printf("packed kernels: not run (%s)\n", device.is_cpu() ? "no GPU" : "no library given");
  }
  return 0;
} catch (const miq::Error& error) {
  std::fprintf(stderr, "cuda_speed: %s\n", error.what());
  return error.exit_code();
} catch (const std::exception& error) {
  std::fprintf(stderr, "cuda_speed: %s\n", error.what());
  return 1;
}

// Packed weights on a GPU, against its memory's bandwidth: one line a figure. bench/cuda.sh runs it.
//
//   cuda_packed DEVICE KERNELS [LAYERS WINDOWS]       DEVICE as --device; KERNELS: libmiq_cuda.so
//
// The kernels alone, at 11008 x 4096 with a group every 128 columns; evaluation of Llama-2-7B's shape from packed weights, decoded by the kernel and by the
// processor; steps of its generation, multiplied packed and dense. With DEVICE cpu the tests' loops stand for the kernels, at a small shape: whether this
// program works, and no figure.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "bench/cuda_shapes.h"
#include "miq/base/cuda_library.h"
#include "miq/base/error.h"
#include "miq/evaluate/perplexity.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/packed_view.h"
#include "miq/model/device.h"
#include "miq/model/generate.h"
#include "tests/reference/packed_emulation.h"

namespace {

using namespace miq;

struct Bench {
  at::Device device;
  const MiqCudaTable& kernels;
  double bandwidth = 0;  // bytes a second of a copy, read and written

  bool real() const { return !device.is_cpu(); }
  int index() const { return device.has_index() ? device.index() : 0; }
  const BenchShape& shape() const { return real() ? kLlama7b : kSmallShape; }
};

double copy_bandwidth(at::Device device) {
  const at::Tensor large = at::ones({std::int64_t{1} << (device.is_cpu() ? 20 : 28)}, at::TensorOptions(at::kFloat).device(device));
  large.clone();
  synchronize(device);
  const double started = seconds_now();
  for (int i = 0; i < 20; ++i) large.clone();
  synchronize(device);
  return 20.0 * 2 * static_cast<double>(large.nbytes()) / (seconds_now() - started);
}

Tensor packed_matrix(std::int64_t rows, std::int64_t cols, std::uint8_t bits, bool masked, std::uint64_t seed) {
  PackedMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  std::uint64_t state = seed * 2 + 1;
  const auto random = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::uint32_t>(state >> 40);
  };
  const std::int64_t groups = std::max<std::int64_t>(1, cols / 128);
  matrix.bits_of_group.assign(static_cast<std::size_t>(groups), bits);
  for (std::int64_t c = 0; c < cols; ++c) matrix.group_of_column.push_back(static_cast<std::uint16_t>(std::min(groups - 1, c / 128)));
  const float step = 0.07f / static_cast<float>(1 << bits);  // so that weights deviate by 0.02
  for (std::int64_t i = 0; i < rows * groups; ++i) {
    matrix.scales.push_back(f16_to_f32(f32_to_f16(step * (1 + 1e-3f * static_cast<float>(random() % 100)))));
    matrix.zeros.push_back(static_cast<std::uint8_t>((1u << (bits - 1)) - random() % 2));
  }
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    if (masked) matrix.kept.push_back(random() % 2);
    matrix.codes.push_back(masked && !matrix.kept.back() ? 0 : static_cast<std::uint8_t>(random() % (1u << bits)));
  }
  return pack(matrix, DType::BF16);
}

// A matrix on the device several times, so that none is found in the cache.
struct Copies {
  std::vector<at::Tensor> images;
  std::vector<PackedView> views;
};
Copies copies_of(const PackedArrays& arrays, at::Device device) {
  Copies copies;
  for (int i = 0; i < 8; ++i) {
    at::Tensor host = at::zeros({static_cast<std::int64_t>(arrays.image_bytes())}, at::kByte), there = host.to(device).clone();
    copies.views.push_back(arrays.write_image({host.mutable_data_ptr<std::uint8_t>(), arrays.image_bytes()}, there.const_data_ptr()));
    there.copy_(host);
    copies.images.push_back(there);
  }
  return copies;
}

template <class Call>
double seconds_of(const Bench& bench, const Copies& copies, const Call& call) {
  const int times = bench.real() ? 200 : 2;
  for (const PackedView& view : copies.views) call(view);
  synchronize(bench.device);
  const double from = seconds_now();
  for (int i = 0; i < times; ++i) call(copies.views[static_cast<std::size_t>(i) % copies.views.size()]);
  synchronize(bench.device);
  return (seconds_now() - from) / times;
}

void measure_kernels(const Bench& bench, std::uint8_t bits, bool masked) {
  const Tensor tensor = bench.real() ? packed_matrix(11008, 4096, bits, masked, bits) : packed_matrix(48, 256, bits, masked, bits);
  const PackedArrays arrays = packed_arrays(tensor, "w");
  const Copies copies = copies_of(arrays, bench.device);
  const auto floats = at::TensorOptions(at::kFloat).device(bench.device);
  const at::Tensor x = at::ones({arrays.cols}, floats);
  at::Tensor y = at::ones({arrays.rows}, floats);
  const double product = seconds_of(bench, copies, [&](const PackedView& view) {
    check_cuda(bench.kernels, bench.kernels.packed_product(bench.index(), &view, x.const_data_ptr<float>(), y.data_ptr<float>()), "a packed product");
  });
  const std::string label = std::to_string(bits) + " bits" + (masked ? ", masked" : "");
  const auto stored = static_cast<double>(tensor.stored_bytes());
  say((label + ": product").c_str(), stored / product * 1e-9, "GB/s of stored bytes");
  say((label + ": product over bandwidth").c_str(), stored / product / bench.bandwidth, "(goal: at least 0.6)");
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    at::Tensor decoded = at::ones({arrays.rows, arrays.cols}, floats.dtype(type));
    const double decode = seconds_of(bench, copies, [&](const PackedView& view) {
      const int status = bench.kernels.packed_decode(bench.index(), &view, packed_rounding(tensor.dtype), type == at::kFloat, decoded.mutable_data_ptr());
      check_cuda(bench.kernels, status, "decoding");
    });
    const std::string what = label + ": decoding to " + (type == at::kFloat ? "float32" : "bfloat16");
    const double moved = stored + static_cast<double>(decoded.nbytes());
    say(what.c_str(), moved / decode * 1e-9, "GB/s read and written");
    say((what + " over bandwidth").c_str(), moved / decode / bench.bandwidth, "");
    const at::Tensor expected = to_torch(tensor, "w", type).to(bench.device);
    say((what + ": numbers that differ from the processor's").c_str(), static_cast<double>((expected != decoded).sum().item().toLong()), "(must be 0)");
    if (type != at::kFloat) continue;
    const at::Tensor wanted = decoded.mv(x);
    say((label + ": product against decoded").c_str(), ((y - wanted).norm() / wanted.norm()).item().toDouble(), "(below 0.01)");
  }
}

// The shape with the linears of a layer packed in 4 bits; `bytes` becomes what they take, of all layers.
Model packed_model(const BenchShape& shape, std::int64_t layers, std::uint64_t& bytes) {
  Model model = llama_shaped(shape, layers);
  const Architecture& rules = architecture(model.config.architecture);
  std::map<std::string, Tensor> made;
  bytes = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (const LayerTensor& tensor : layer_tensors(model.config, layer)) {
      if (!tensor.linear()) continue;
      if (!made.contains(tensor.name)) made.emplace(tensor.name, packed_matrix(tensor.shape[0], tensor.shape[1], 4, false, made.size() + 1));
      bytes += made.at(tensor.name).stored_bytes();
      model.tensors.at(layer_tensor_name(rules, layer, tensor.name)) = made.at(tensor.name);
    }
  }
  return model;
}

void measure_evaluation(const Bench& bench, std::int64_t layers, std::int64_t windows) {
  std::uint64_t bytes = 0;
  const Model model = packed_model(bench.shape(), layers, bytes);
  const std::int64_t seqlen = bench.real() ? 2048 : 32;
  ThreadPool pool;
  std::vector<std::vector<std::vector<std::vector<float>>>> losses;
  double seconds[2] = {};
  const MiqCudaTable* decoders[] = {&bench.kernels, nullptr};
  for (std::size_t i = 0; i < 2; ++i) {
    const std::string who = i == 0 ? "decoded by the kernel" : "decoded by the processor";
    const ForwardPass forward(model, ComputeType::BFloat16, Kernels::Device, bench.device, decoders[i]);
    const auto walk = [&](std::int64_t count) {
      const WindowPlan plan = plan_of(count, seqlen, model.config.vocabulary);
      WalkStatistics statistics;
      losses.push_back(walk_windows(forward, {&plan}, pool, {}, {}, statistics));
      return statistics.seconds;
    };
    walk(2);
    losses.pop_back();
    seconds[i] = walk(windows);
    synchronize(bench.device);
    const double from = seconds_now();
    for (int times = 0; times < 3; ++times) forward.load_layer_to_run(0), synchronize(bench.device);
    say(("a layer, " + who).c_str(), (seconds_now() - from) / 3, "s, nothing else going on");
    say(("evaluation, " + who).c_str(), static_cast<double>(windows * seqlen) / seconds[i], "tokens/s");
    if (i == 0) std::printf("%s\n", forward.packed_loads().text(bench.device.str()).c_str());
  }
  say("evaluation, kernel over processor", seconds[1] / seconds[0], "times as fast");
  say("losses", losses[0] == losses[1] ? 0 : 1, "(0: the same bits either way)");
}

double step_seconds(const Bench& bench, const Generator& generator, std::int64_t vocabulary) {
  const std::int64_t steps = bench.real() ? 64 : 4;
  Generator::Sequence sequence = generator.start(64 + steps);
  std::vector<std::int32_t> prompt;
  for (std::int64_t i = 0; i < 32; ++i) prompt.push_back(static_cast<std::int32_t>(i * 7919 % vocabulary));
  generator.extend(sequence, prompt);
  Generator::Sequence* one[] = {&sequence};
  const auto step = [&](std::int64_t i) { generator.step(one, std::vector<std::int32_t>{static_cast<std::int32_t>(i * 31 % vocabulary)}); };
  for (std::int64_t i = 0; i < 3; ++i) step(i);
  const double from = seconds_now();
  for (std::int64_t i = 0; i < steps; ++i) step(i);
  return (seconds_now() - from) / static_cast<double>(steps);
}

void measure_generation(const Bench& bench, std::int64_t layers) {
  std::uint64_t packed = 0;
  const Model model = packed_model(bench.shape(), layers, packed);
  ThreadPool pool;
  double seconds[2] = {};
  std::uint64_t head = 0;
  const MiqCudaTable* kernels[] = {&bench.kernels, nullptr};
  for (std::size_t i = 0; i < 2; ++i) {
    const Generator generator(model, ComputeType::BFloat16, pool, bench.device, Kernels::Device, kernels[i]);
    const std::string all = "of " + std::to_string(7 * layers);
    if (i == 0) say("generation: matrices that are multiplied packed", static_cast<double>(generator.packed_matrices()), all.c_str());
    seconds[i] = step_seconds(bench, generator, model.config.vocabulary);
    head = static_cast<std::uint64_t>(2 * model.config.vocabulary * model.config.hidden);
  }
  const auto read = static_cast<double>(packed + head);
  say("generation: a step, packed", 1e3 * seconds[0], "ms");
  say("generation: a step, dense", 1e3 * seconds[1], "ms");
  say("generation: packed bytes of a step", static_cast<double>(packed) * 1e-9, ("GB, and " + std::to_string(head / 1000000) + " MB of head").c_str());
  say("generation: stored bytes and head", read / seconds[0] * 1e-9, "GB/s");
  say("generation: stored bytes and head over bandwidth", read / seconds[0] / bench.bandwidth, "(goal: at least 0.6)");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 5) throw UsageError("usage: cuda_packed DEVICE KERNELS [LAYERS WINDOWS]; see the head of cuda_packed.cc");
  use_single_threaded_torch();
  const at::NoGradGuard no_grad;
  const at::Device device = open_devices(parse_device(argv[1])).front();
  Bench bench{device, device.is_cpu() ? reference::packed_table() : open_cuda_library(argv[2]).kernels};
  const std::int64_t layers = argc > 4 ? std::stoll(argv[3]) : bench.real() ? 32 : 2, windows = argc > 4 ? std::stoll(argv[4]) : bench.real() ? 64 : 3;
  std::printf("device: %s %s\n", device.str().c_str(), bench.real() ? device_name(device).c_str() : "with stand-ins for the kernels: no figure here means anything");
  bench.bandwidth = copy_bandwidth(device);
  say("memory bandwidth of a copy", bench.bandwidth * 1e-9, "GB/s");
  for (const bool masked : {false, true}) {
    for (const std::uint8_t bits : {2, 3, 4, 6, 8}) measure_kernels(bench, bits, masked);
  }
  std::printf("%s, %lld layers packed in 4 bits with groups of 128\n", bench.shape().name, static_cast<long long>(layers));
  measure_evaluation(bench, layers, windows);
  measure_generation(bench, layers);
  return 0;
} catch (const miq::Error& error) {
  std::fprintf(stderr, "cuda_packed: %s\n", error.what());
  return error.exit_code();
} catch (const std::exception& error) {
  std::fprintf(stderr, "cuda_packed: %s\n", error.what());
  return 1;
}

// Evaluation on a GPU, measured against what that GPU can do: one line a figure, "NAME VALUE UNIT". bench/cuda.sh runs it.
//
//   cuda_speed DEVICE [LAYERS WINDOWS]       DEVICE as --device
//
// The model has Llama-2-7B's shape and random weights with the deviations of real ones; all its layers are one layer's bytes, read, copied
// and computed as often as there are layers. What it predicts does not matter to the time; the comparison with float32 on the
// processor is on its first layers, where the losses' size is that of random predictions.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>

#include "bench/cuda_shapes.h"
#include "miq/base/error.h"
#include "miq/evaluate/perplexity.h"
#include "miq/model/device.h"

namespace {

using namespace miq;

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
  const Model model = llama_shaped(kLlama7b, layers);
  const ForwardPass forward(model, ComputeType::BFloat16, Kernels::Device, device);
  ThreadPool pool;
  const auto run = [&](std::int64_t count) {
    const WindowPlan plan = plan_of(count, seqlen, model.config.vocabulary);
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
  const Model model = llama_shaped(kLlama7b, 2);
  ThreadPool pool;
  const WindowPlan plan = plan_of(1, 256, model.config.vocabulary);
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

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 4) throw UsageError("usage: cuda_speed DEVICE [LAYERS WINDOWS]; see the head of cuda_speed.cc");
  use_single_threaded_torch();
  const at::Device device = open_devices(parse_device(argv[1])).front();
  std::printf("device: %s %s\n", device.str().c_str(), device_name(device).c_str());
  evaluation(device, argc > 3 ? std::stoll(argv[2]) : 32, argc > 3 ? std::stoll(argv[3]) : 128);
  losses(device);
  return 0;
} catch (const miq::Error& error) {
  std::fprintf(stderr, "cuda_speed: %s\n", error.what());
  return error.exit_code();
} catch (const std::exception& error) {
  std::fprintf(stderr, "cuda_speed: %s\n", error.what());
  return 1;
}

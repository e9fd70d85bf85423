// Our side of eval_speed.py: keeps a model open and, for each line of standard input, does one thing and
// answers with one line.
//
//   eval_speed MODEL TEXT THREADS
//     tokens FILE             writes the text's token ids as int32
//     run PROTOCOL SEQLEN WINDOWS   -> seconds, mean loss: the walk of run-eval (decoding of layers included)
//     products                -> GFLOP/s of LibTorch's bfloat16 product of two 2048 x 2048 matrices, one product
//                                on each thread at once; of the same by our own kernel where there is one
#include <ATen/core/Tensor.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "miq/base/error.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/model/bf16_product.h"

namespace {

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr std::int64_t kSize = 2048;

// GFLOP/s over all threads; the best of seven.
template <class Product>
double rate(miq::ThreadPool& pool, Product&& multiply) {
  constexpr int kTimes = 4;
  double best = 0;
  for (int round = 0; round < 7; ++round) {
    const double started = seconds_now();
    pool.for_each(pool.threads(), [&](std::int64_t) {
      for (int i = 0; i < kTimes; ++i) multiply();
    });
    best = std::max(best, 2e-9 * kSize * kSize * kSize * kTimes * pool.threads() / (seconds_now() - started));
  }
  return best;
}

double torch_rate(miq::ThreadPool& pool) {
  const at::Tensor a = at::ones({kSize, kSize}, at::kBFloat16), b = at::ones({kSize, kSize}, at::kBFloat16);
  return rate(pool, [&] {
    miq::use_single_threaded_torch();
    at::mm(a, b);
  });
}

double own_rate(miq::ThreadPool& pool) {
  if (!miq::have_bf16_kernels()) return 0;
  const std::vector<miq::Bf16> a(static_cast<std::size_t>(kSize * kSize), 0x3f80);
  miq::PackedBf16 b(kSize, kSize);
  b.set_columns(0, a.data(), kSize, kSize);
  return rate(pool, [&] {
    std::vector<float> out(static_cast<std::size_t>(kSize * kSize));
    miq::product(a.data(), kSize, kSize, b, [&](std::int64_t row, std::int64_t rows, std::int64_t column, const float* tile) {
      for (std::int64_t r = 0; r < rows; ++r) std::copy_n(tile + r * miq::kTileColumns, miq::kTileColumns, out.data() + (row + r) * kSize + column);
    });
  });
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) throw miq::UsageError("usage: eval_speed MODEL TEXT THREADS; see the head of eval_speed.cc");
  miq::use_single_threaded_torch();
  miq::ThreadPool pool(std::stoi(argv[3]));
  const miq::Model model = miq::open_model(argv[1]);
  const miq::Text text = miq::load_text("wikitext2", argv[2]);
  const miq::ForwardPass forward(model, miq::ComputeType::BFloat16);
  std::printf("ready\n");
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    if (what == "tokens") {
      std::string path;
      words >> path;
      const auto ids = model.tokenizer->encode(text.content);
      std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(4 * ids.size()));
      std::printf("%zu\n", ids.size());
    } else if (what == "run") {
      std::string name;
      std::int64_t seqlen = 0, windows = 0;
      words >> name >> seqlen >> windows;
      const miq::Protocol& rules = miq::protocol(name);
      const miq::WindowPlan plan = miq::plan_windows(rules, model, text, seqlen, windows);
      miq::WalkStatistics statistics;
      const auto losses = miq::walk_windows(forward, {&plan}, pool, {}, {}, statistics);
      std::printf("%.6f %.6f\n", statistics.seconds, miq::summarise(rules, plan, losses[0]).mean_nll);
    } else if (what == "products") {
      std::printf("%.1f %.1f\n", torch_rate(pool), own_rate(pool));
    }
    std::fflush(stdout);
  }
  return 0;
} catch (const miq::Error& error) {
  std::fprintf(stderr, "eval_speed: %s\n", error.what());
  return error.exit_code();
} catch (const std::exception& error) {
  std::fprintf(stderr, "eval_speed: %s\n", error.what());
  return 1;
}

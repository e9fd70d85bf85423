// The clock runs over whole prompts and over all steps of a batch; what the tokens are does not change the time, so the next one is
// taken for granted and no sampling is measured. A model too short for the usual lengths gets four fifths of its own as a prompt.
#include "miq/evaluate/generation.h"

#include <algorithm>
#include <chrono>

#include "miq/model/generate.h"

namespace miq {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int32_t some_id(const Config& config, std::int64_t place) {
  return static_cast<std::int32_t>(static_cast<std::uint64_t>(place) * 7919 % static_cast<std::uint64_t>(config.vocabulary));
}

}  // namespace

std::uint64_t generation_bytes(const Model& model, ComputeType type, at::Device device) {
  const std::uint64_t element = type == ComputeType::Float32 ? 4 : 2;
  const DType wanted = type == ComputeType::Float32 ? DType::F32 : DType::BF16;
  std::uint64_t bytes = 0, row = 0;
  for (const auto& [name, tensor] : model.tensors) {
    if (!device.is_cpu() || tensor.encoding != Encoding::Dense || tensor.dtype != wanted) bytes += element * static_cast<std::uint64_t>(tensor.elements());
  }
  for (const LayerConfig& sizes : model.config.layers) row += 2 * element * static_cast<std::uint64_t>(sizes.kv_heads * sizes.head_dim);
  const std::int64_t most = *std::max_element(std::begin(GenerationSpeed::kBatches), std::end(GenerationSpeed::kBatches));
  return bytes + row * static_cast<std::uint64_t>(most * (GenerationSpeed::kPrompt + GenerationSpeed::kNewTokens));
}

GenerationSpeed measure_generation(const Model& model, ComputeType type, double open_seconds, ThreadPool& pool, const ProgressFunction& progress,
                                   at::Device device, const MiqCudaTable* kernels) {
  const Config& config = model.config;
  GenerationSpeed speed;
  speed.prompt = GenerationSpeed::kPrompt;
  speed.new_tokens = GenerationSpeed::kNewTokens;
  if (config.max_positions < speed.prompt + speed.new_tokens) {
    speed.shortened = true;
    speed.prompt = std::max<std::int64_t>(1, config.max_positions / 5 * 4);
    speed.new_tokens = config.max_positions - speed.prompt;
  }
  double total = 1, done = 0;
  for (const std::int64_t batch : GenerationSpeed::kBatches) total += static_cast<double>(4 * batch + speed.new_tokens);
  const auto report = [&](double work) {
    if (progress) progress({"generation", done += work, total});
  };
  report(0);
  const auto loading = Clock::now();
  const Generator generator(model, type, pool, device, Kernels::Portable, kernels);
  {
    Generator::Sequence first = generator.start(1);
    generator.extend(first, std::vector<std::int32_t>{some_id(config, 1)});
  }
  speed.load_seconds = open_seconds + seconds_since(loading);
  speed.weight_bytes = generator.weight_bytes();
  report(1);
  for (const std::int64_t batch : GenerationSpeed::kBatches) {
    std::vector<Generator::Sequence> sequences;
    std::vector<Generator::Sequence*> all;
    double prompt_seconds = 0, step_seconds = 0;
    for (std::int64_t s = 0; s < batch; ++s) {
      sequences.push_back(generator.start(speed.prompt + speed.new_tokens));
      std::vector<std::int32_t> ids;
      for (std::int64_t i = 0; i < speed.prompt; ++i) ids.push_back(some_id(config, i + 31 * s));
      const auto start = Clock::now();
      generator.extend(sequences.back(), ids);
      prompt_seconds += seconds_since(start);
      report(4);
    }
    for (Generator::Sequence& sequence : sequences) all.push_back(&sequence);
    speed.cache_bytes = sequences.front().cache.bytes();
    // The prompts gave the first new token.
    const std::int64_t steps = speed.new_tokens - 1;
    for (std::int64_t step = 0; step < steps; ++step) {
      std::vector<std::int32_t> ids;
      for (std::int64_t s = 0; s < batch; ++s) ids.push_back(some_id(config, step + s));
      const auto start = Clock::now();
      generator.step(all, ids);
      step_seconds += seconds_since(start);
      report(1);
    }
    const auto sequences_count = static_cast<double>(batch);
    speed.runs.push_back({batch, sequences_count * static_cast<double>(speed.prompt) / prompt_seconds,
                          steps > 0 ? sequences_count * static_cast<double>(steps) / step_seconds : 0,
                          steps > 0 ? 1000 * step_seconds / static_cast<double>(steps) : 0});
  }
  return speed;
}

}  // namespace miq

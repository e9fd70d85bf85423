// A cap on memory changes where things lie and how often windows pass, never the result.
#include "miq/compress/working_memory.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/forecast.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

Config config(bool mixture) {
  Config c;
  c.architecture = mixture ? "mixtral" : "llama";
  c.vocabulary = 67;
  c.hidden = 32;
  c.max_positions = 64;
  c.layers.assign(3, {4, 2, 8, 48});
  if (mixture) {
    for (LayerConfig& layer : c.layers) layer.experts = 5;
    c.experts_per_token = 2;
  }
  return c;
}

Calibration windows() {
  Calibration calibration;
  for (std::uint32_t w = 0; w < 20; ++w) calibration.windows.push_back(test::random_ids(24, 67, 100 + w));
  calibration.description = {{"text", "none"}};
  return calibration;
}

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("miq_scratch_" + std::to_string(::getpid()));
  Folder() { std::filesystem::create_directory(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

TEST(WorkingMemory, TheResultIsTheSame) {
  const Folder folder;
  const ScratchFolder disk(folder.path.string());
  ThreadPool pool(2);
  for (const bool mixture : {false, true}) {
    for (const ComputeType compute : {ComputeType::Float32, ComputeType::BFloat16}) {
      const Model model = test::small_model(config(mixture)).model;
      for (const char* method : {"sparsegpt", "mixed", "mi"}) {
        CompressOptions options;
        options.method = method;
        options.compute = compute;
        options.sparsity = 0.4;
        options.wbits = 4;
        if (options.method == "mixed") {
          options.channel_scaling = true;
          options.tune = Tune::Norms;
          options.tune_epochs = 1;
        }
        if (options.method == "mixed" && mixture) {
          options.auto_groups = true;  // several recipes measured at once
          options.wbits = {};
          options.target_bpw = 6;
        } else if (options.method != "sparsegpt") {
          options.group_size = 16;
        }
        const Recipe recipe = resolve(options, model.config);
        const CompressResult plain = compress(model, windows(), recipe, pool);
        bool clean = true;
        const auto look = [&](const std::string&) { clean = clean && std::filesystem::is_empty(folder.path); };
        // 10,000 bytes: two inputs of 32 channels, or one of 48.
        const CompressResult capped = compress(model, windows(), recipe, pool, {}, look, nullptr, {&disk, 10000});
        EXPECT_TRUE(clean) << "a file with a name was left in the scratch folder";
        EXPECT_EQ(weights_digest(capped.model, pool), weights_digest(plain.model, pool)) << method << " " << mixture;
        EXPECT_EQ(capped.model.statistics, plain.model.statistics) << method;
      }
    }
  }
}

TEST(WorkingMemory, BatchesHoldEveryPlaceOnce) {
  const Config c = config(true);
  const auto all = input_places(c, 0);
  EXPECT_EQ(place_batches(c, 0, 0), std::vector<std::vector<InputPlace>>{all});
  for (const std::uint64_t bytes : {1, 5000, 9000, 20000, 1000000}) {
    std::vector<InputPlace> seen;
    for (const auto& batch : place_batches(c, 0, bytes)) {
      EXPECT_FALSE(batch.empty());
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    EXPECT_EQ(seen, all) << bytes;
  }
  EXPECT_EQ(place_batches(c, 0, 1).size(), all.size());
}

TEST(WorkingMemory, ScratchIsRefusedWhereThereIsNoRoom) {
  const Folder folder;
  EXPECT_THROW(ScratchFolder((folder.path / "missing").string()), Error);
  const ScratchFolder disk(folder.path.string());
  EXPECT_THROW(disk.require(std::uint64_t{1} << 60), Error);
  EXPECT_THROW(disk.allocate(std::uint64_t{1} << 62), Error);
  const auto room = disk.allocate(10000);
  EXPECT_EQ(room.get()[9999], 0);
  room.get()[9999] = 7;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
}

TEST(WorkingMemory, TheForecastSaysWhatFits) {
  const Model model = test::small_model(config(true)).model;
  CompressOptions options;
  options.compute = ComputeType::Float32;
  options.wbits = 4;
  const Recipe recipe = resolve(options, model.config);
  ThreadPool pool(2);
  Forecast expected = forecast(model, windows(), recipe, measure_rates(model, 24, recipe, pool));
  const auto& memory = expected.memory;
  EXPECT_FALSE(fit_memory(expected, memory.peak()).disk);
  const MemoryFit disk = fit_memory(expected, memory.peak() - 1);
  EXPECT_TRUE(disk.disk);
  EXPECT_EQ(disk.hessians, 0u);
  EXPECT_EQ(disk.disk_bytes, memory.on_disk());
  const MemoryFit batches = fit_memory(expected, memory.least() + memory.largest_hessian + 100);
  EXPECT_EQ(batches.hessians, memory.largest_hessian + 100);
  EXPECT_NE(fit_text(batches, 1, "here").find("several times"), std::string::npos);
  EXPECT_THROW(fit_memory(expected, memory.least() + memory.largest_hessian - 1), UsageError);

  // Tuning comes after the layers: what it keeps takes the place of Hessians and inputs, and stays in memory.
  const std::uint64_t plain = memory.peak(), solved = memory.held(memory.largest_hessian);
  expected.memory.tuning = 1;
  EXPECT_EQ(memory.peak(), plain);
  expected.memory.tuning = plain;
  EXPECT_GT(memory.peak(), plain);
  EXPECT_EQ(memory.held(memory.largest_hessian), memory.base() + plain);
  EXPECT_GT(memory.held(memory.largest_hessian), solved);
  EXPECT_THROW(fit_memory(expected, memory.held(memory.largest_hessian) - 1), UsageError);
  const MemoryFit tuned = fit_memory(expected, memory.held(memory.largest_hessian));
  EXPECT_TRUE(tuned.disk);
  EXPECT_EQ(tuned.hessians, 0u);  // those of a whole layer fit beside it
}

}  // namespace
}  // namespace miq

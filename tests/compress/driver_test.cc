// Every method on tiny random models: what was asked for is what is stored, budgets are exact, and the bytes do not
// depend on the number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/formats/digest.h"
#include "miq/formats/packed_matrix.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

constexpr std::int64_t kVocabulary = 80;

Config tiny_config() {
  Config c;
  c.architecture = "llama";
  c.vocabulary = kVocabulary;
  c.hidden = 48;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 12, 96});
  c.tied_head = true;
  return c;
}

Model tiny_model(DType dtype = DType::F32, const Config& c = tiny_config()) {
  Model model;
  model.name = "tiny";
  model.config = c;
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.12f);
  for (const ExpectedTensor& expected : expected_tensors(c)) {
    std::vector<std::uint8_t> bytes;
    std::int64_t elements = 1;
    for (std::int64_t d : expected.shape) elements *= d;
    for (std::int64_t i = 0; i < elements; ++i) {
      const float value = expected.shape.size() == 1 ? 1.0f : normal(random);
      if (dtype == DType::BF16) {
        const std::uint16_t bits = f32_to_bf16(value);
        bytes.insert(bytes.end(), reinterpret_cast<const std::uint8_t*>(&bits), reinterpret_cast<const std::uint8_t*>(&bits) + 2);
      } else {
        bytes.insert(bytes.end(), reinterpret_cast<const std::uint8_t*>(&value), reinterpret_cast<const std::uint8_t*>(&value) + 4);
      }
    }
    model.tensors[expected.name] = dense_tensor(dtype, expected.shape, Blob(std::move(bytes)));
  }
  return model;
}

Calibration tiny_calibration(std::int64_t windows = 20, std::int64_t seqlen = 24) {
  Calibration calibration;
  std::mt19937 random(3);
  for (std::int64_t w = 0; w < windows; ++w) {
    auto& ids = calibration.windows.emplace_back();
    for (std::int64_t i = 0; i < seqlen; ++i) ids.push_back(static_cast<std::int32_t>(random() % kVocabulary));
  }
  calibration.description = {{"text", "none"}};
  return calibration;
}

CompressOptions base(const std::string& method) {
  CompressOptions options;
  options.method = method;
  options.compute = ComputeType::Float32;
  return options;
}

CompressResult run(const CompressOptions& options, int threads = 2, const Model& model = tiny_model()) {
  ThreadPool pool(threads);
  return compress(model, tiny_calibration(), resolve(options, model.config), pool);
}

struct Bits {
  std::uint64_t weights = 0, kept = 0, codes = 0;
  std::uint64_t smallest_step = ~std::uint64_t{0};  // of one group, to the next level
};

Bits stored_bits(const Model& model) {
  Bits bits;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    if (!expected.linear) continue;
    const Tensor& tensor = model.tensors.at(expected.name);
    EXPECT_EQ(tensor.encoding, Encoding::Packed) << expected.name;
    const PackedBits packed = packed_bits(tensor, expected.name);
    bits.weights += packed.weights;
    bits.kept += packed.kept;
    bits.codes += packed.codes;
  }
  return bits;
}

double zeros(const Model& model) {
  std::int64_t zero = 0, all = 0;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    if (!expected.linear) continue;
    zero += count_zeros(model.tensors.at(expected.name), expected.name);
    all += model.tensors.at(expected.name).elements();
  }
  return static_cast<double>(zero) / static_cast<double>(all);
}

std::string stored_digest(const Model& model) {
  Digest digest;
  for (const auto& [name, tensor] : model.tensors) {
    digest.add(name);
    for (const auto& [section, blob] : tensor.sections) {
      digest.add(section);
      digest.add(blob.bytes());
    }
  }
  digest.add(model.method.dump() + model.statistics.dump() + model.calibration.dump());
  return digest.hex();
}

std::vector<CompressOptions> all_methods() {
  std::vector<CompressOptions> list;
  for (const char* name : {"sparsegpt", "wanda", "magnitude"}) {
    list.push_back(base(name));
    list.back().sparsity = 0.5;
    list.push_back(base(name));
    list.back().prune_n = 2, list.back().prune_m = 4, list.back().wbits = 4;
  }
  for (const char* name : {"sparsegpt", "rtn", "gptq"}) {
    list.push_back(base(name));
    list.back().wbits = 3, list.back().group_size = 16;
  }
  for (const char* name : {"enhanced", "mi", "mixed"}) {
    list.push_back(base(name));
    list.back().target_avg_bits = 3.7;
    list.push_back(base(name));
    list.back().wbits = 4, list.back().sparsity = 0.4;
    if (name[0] == 'm') list[list.size() - 2].group_size = 16, list.back().group_size = 16;
  }
  list.push_back(base("enhanced"));
  list.back().bit_method = BitMethod::Quantile;
  return list;
}

TEST(Driver, EveryMethodGivesTheSameBytesAtAnyNumberOfThreads) {
  for (const CompressOptions& options : all_methods()) {
    const std::string name = resolve(options, tiny_model().config).to_json().dump();
    const CompressResult one = run(options, 1);
    EXPECT_EQ(one.fallbacks, 0) << name;
    for (int threads : {2, 3}) EXPECT_EQ(stored_digest(one.model), stored_digest(run(options, threads).model)) << name << " at " << threads;
  }
}

TEST(Driver, ZerosAreAsManyAsAskedFor) {
  for (const CompressOptions& options : all_methods()) {
    const Recipe recipe = resolve(options, tiny_model().config);
    if (recipe.sparsity == 0) continue;
    const CompressResult result = run(options);
    if (recipe.quantize) {
      const Bits bits = stored_bits(result.model);
      const double sparsity = 1 - static_cast<double>(bits.kept) / static_cast<double>(bits.weights);
      EXPECT_NEAR(sparsity, recipe.sparsity, 0.002) << recipe.to_json();
    } else {
      EXPECT_NEAR(zeros(result.model), recipe.sparsity, 0.002) << recipe.to_json();
    }
  }
}

TEST(Driver, BudgetsAreExact) {
  for (const char* method : {"mi", "mixed", "enhanced"}) {
    for (double target : {2.0, 2.9, 3.7, 4.0, 7.3, 8.0}) {
      for (double sparsity : {0.0, 0.4}) {
        CompressOptions options = base(method);
        options.target_avg_bits = target;
        if (sparsity > 0) options.sparsity = sparsity;
        if (method[0] == 'm') options.group_size = 16;
        const Bits bits = stored_bits(run(options).model);
        const double average = static_cast<double>(bits.codes) / static_cast<double>(bits.kept);
        EXPECT_LE(average, target + 1e-12) << method << " " << target << " sparsity " << sparsity;
        // One column of one matrix for `enhanced` (each of 14 matrices may miss a column's step of two
        // levels), one group of one matrix otherwise.
        const double step = method[0] == 'm' ? 2.0 * 96 * 16 : 14 * 2.0 * 96;
        EXPECT_GT(average, target - step / static_cast<double>(bits.kept) - 1e-12) << method << " " << target << " sparsity " << sparsity;
      }
    }
  }
}

TEST(Driver, EffectiveBitsAreExactAsStored) {
  for (Allocator allocator : {Allocator::Global, Allocator::PerLayer, Allocator::Redundancy, Allocator::Quantile, Allocator::Budget}) {
    for (const char* method : {"mi", "mixed"}) {
      for (double target : {4.5, 5.3}) {
        for (double sparsity : {0.0, 0.4}) {
          CompressOptions options = base(method);
          options.target_bpw = target, options.allocator = allocator;
          options.group_size = 16;
          // All allocators and both kinds of scales, without running every pair of them.
          options.scale_bits = allocator == Allocator::PerLayer ? 6 : target > 5 ? 8 : 16;
          if (sparsity > 0) options.sparsity = sparsity;
          const Model model = run(options).model;
          const std::string what = std::string(allocator_name(allocator)) + " " + method + " " + std::to_string(target) + " sparsity " +
                                   std::to_string(sparsity);
          std::uint64_t stored = 0, weights = 0;
          for (const ExpectedTensor& expected : expected_tensors(model.config)) {
            if (!expected.linear) continue;
            const PackedBits packed = packed_bits(model.tensors.at(expected.name), expected.name);
            stored += packed.total(), weights += packed.weights;
          }
          const double average = static_cast<double>(stored) / static_cast<double>(weights);
          EXPECT_LE(average, target) << what;
          // The smallest step is at most two bits of the smallest whole group with its zero points, here 17 columns of 24 rows.
          EXPECT_GT(average, target - (2.0 * 17 * 24 + 14 * 14 * 6) / static_cast<double>(weights)) << what;
          EXPECT_NEAR(model.statistics["compressed"]["effective_bits"].get<double>(), average, 1e-9) << what;
        }
      }
    }
  }
}

TEST(Driver, OptionsOfInformationChangeTheGroupsAndTheDefaultsDoNot) {
  CompressOptions options = base("mi");
  options.wbits = 3, options.group_size = 8;
  const std::string plain = stored_digest(run(options).model);
  options.allocator = Allocator::Global, options.mi_estimator = MiEstimator::Gaussian, options.clustering = Clustering::Spectral;
  EXPECT_EQ(stored_digest(run(options).model), plain);
  std::vector<std::string> digests = {plain};
  for (int change = 0; change < 3; ++change) {
    CompressOptions other = base("mi");
    other.wbits = 3, other.group_size = 8;
    if (change != 1) other.mi_estimator = MiEstimator::Binned;
    if (change != 0) other.clustering = Clustering::Hierarchical;
    const Model model = run(other, 1).model;
    digests.push_back(stored_digest(model));
    EXPECT_EQ(digests.back(), stored_digest(run(other, 3).model));
    EXPECT_TRUE(model.statistics["matrices"][0].contains("mutual_information"));
  }
  std::sort(digests.begin(), digests.end());
  EXPECT_EQ(std::unique(digests.begin(), digests.end()), digests.end());
}

TEST(Driver, ImportanceWeightsDecideWhoGetsTheBits) {
  CompressOptions options = base("enhanced");
  options.wbits = 4;
  const std::string plain = stored_digest(run(options).model);
  options.importance_weights = std::vector<double>{1, 1, 1, 1, 1};
  EXPECT_EQ(stored_digest(run(options).model), plain);
  // Weights' size alone: within a matrix no narrower column may be larger than a wider one.
  options.importance_weights = std::vector<double>{0, 0, 0, 1, 0};
  const Model dense = tiny_model(), model = run(options).model;
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const PackedMatrix packed = unpack(model.tensors.at(name), name);
  const at::Tensor weights = to_torch(dense.tensors.at(name), name, at::kFloat);
  std::map<int, std::pair<double, double>> range;  // least and most norm by width
  for (std::int64_t j = 0; j < packed.cols; ++j) {
    double norm = 0;
    for (std::int64_t r = 0; r < packed.rows; ++r) norm += std::pow(weights.const_data_ptr<float>()[r * packed.cols + j], 2);
    auto [entry, fresh] = range.try_emplace(packed.bits_of_group[packed.group_of_column[static_cast<std::size_t>(j)]], norm, norm);
    if (!fresh) entry->second = {std::min(entry->second.first, norm), std::max(entry->second.second, norm)};
  }
  ASSERT_GT(range.size(), 1u);
  // The rest of the budget goes to the largest columns of each level, which leaves the order as it is.
  for (auto wide = std::next(range.begin()); wide != range.end(); ++wide)
    EXPECT_GE(wide->second.first, std::prev(wide)->second.second) << wide->first;
}

TEST(Driver, TheSummaryShowsTheAllocation) {
  CompressOptions options = base("mixed");
  options.target_avg_bits = 3.3, options.group_size = 16;
  const CompressResult result = run(options);
  for (const char* shown :
       {"layer   0  code bits", "layer   1  code bits", "down_proj  code bits", "q_proj     code bits", "channels by bits"}) {
    EXPECT_NE(result.summary.find(shown), std::string::npos) << shown << "\n" << result.summary;
  }
  EXPECT_EQ(result.model.statistics["kinds"].size(), 7u);
}

TEST(Driver, QuantileWithoutTargetMakesEqualFifths) {
  CompressOptions options = base("enhanced");
  options.bit_method = BitMethod::Quantile;
  const Bits bits = stored_bits(run(options).model);
  EXPECT_NEAR(static_cast<double>(bits.codes) / static_cast<double>(bits.kept), 4.6, 0.06);
}

TEST(Driver, CompensationLosesLessThanRounding) {
  auto error = [](const char* method) {
    CompressOptions options = base(method);
    options.wbits = 3;
    double sum = 0;
    // rtn measures no outputs; compare on the last tokens' hidden states instead.
    const Model dense = tiny_model();
    const Model model = run(options).model;
    const ForwardPass a(dense, ComputeType::Float32), b(model, ComputeType::Float32);
    for (const auto& ids : tiny_calibration().windows) {
      at::Tensor x = a.embed(ids), y = b.embed(ids);
      for (std::int64_t l = 0; l < a.layers(); ++l) {
        x = a.run_layer(a.load_layer(l), x);
        y = b.run_layer(b.load_layer(l), y);
      }
      for (std::int64_t i = 0; i < x.numel(); ++i) sum += std::pow(x.const_data_ptr<float>()[i] - y.const_data_ptr<float>()[i], 2);
    }
    return sum;
  };
  const double rtn = error("rtn"), gptq = error("gptq"), mixed = error("mixed");
  EXPECT_LT(gptq, rtn);
  EXPECT_LT(mixed, rtn);
}

TEST(Driver, KeepsElementTypesAndEverythingElse) {
  CompressOptions options = base("sparsegpt");
  options.sparsity = 0.5, options.wbits = 4;
  const Model dense = tiny_model(DType::BF16);
  const CompressResult result = run(options, 2, dense);
  for (const ExpectedTensor& expected : expected_tensors(dense.config)) {
    const Tensor& before = dense.tensors.at(expected.name);
    const Tensor& after = result.model.tensors.at(expected.name);
    EXPECT_EQ(after.dtype, DType::BF16);
    EXPECT_EQ(after.shape, before.shape);
    if (!expected.linear) {
      EXPECT_EQ(after.sections.at("data").text(), before.sections.at("data").text()) << expected.name;
    }
  }
  EXPECT_EQ(result.model.method["name"], "sparsegpt");
  EXPECT_EQ(result.model.statistics["matrices"].size(), 14u);
  EXPECT_NEAR(result.model.statistics["compressed"]["code_bits"].get<double>(), 4, 1e-9);
  EXPECT_NE(result.summary.find("code bits"), std::string::npos);
}

TEST(Driver, ContiguousGroupingIsTheSameSolverWithGroupsInOrder) {
  CompressOptions options = base("mi");
  options.grouping = Grouping::Contiguous;
  options.wbits = 3, options.group_size = 16;
  const Model model = run(options).model;
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const PackedMatrix packed = unpack(model.tensors.at(name), name);
  for (std::size_t j = 0; j < packed.group_of_column.size(); ++j) EXPECT_EQ(packed.group_of_column[j], j / 16);
}

TEST(Driver, ReportsProgressToTheEnd) {
  for (const char* method : {"mixed", "sparsegpt", "rtn"}) {
    CompressOptions options = base(method);
    options.wbits = 4;
    double last = 0, total = 0;
    int lines = 0;
    ThreadPool pool(2);
    const Model model = tiny_model();
    compress(model, tiny_calibration(), resolve(options, model.config), pool, [&](const Progress& p) {
      EXPECT_GE(p.done, last);
      last = p.done;
      total = p.total;
    }, [&](const std::string&) { ++lines; });
    EXPECT_NEAR(last, total, 1e-9 * total) << method;
    EXPECT_EQ(lines, 14) << method;
  }
}

TEST(Driver, RefusesAModelWithoutLayersWhenQuantizing) {
  Model model = tiny_model();
  std::erase_if(model.tensors, [](const auto& entry) { return entry.first.rfind("model.layers.", 0) == 0; });
  model.config.layers.clear();
  CompressOptions options = base("sparsegpt");
  options.wbits = 4;
  ThreadPool pool(1);
  EXPECT_THROW(compress(model, tiny_calibration(), resolve(options, model.config), pool), UsageError);
}

// Linears with biases, fused ones, norms of heads, deleted layers: the methods see matrices and inputs.
TEST(Driver, WorksOnEveryFamilyWithoutExperts) {
  std::map<std::string, Config> families;
  for (const char* name : {"llama", "mistral", "qwen", "qwen2", "qwen3"}) families[name] = tiny_config();
  for (auto& [name, config] : families) config.architecture = name;
  families["llama"].layers.insert(families["llama"].layers.begin() + 1, LayerConfig{0, 0, 0, 0, true});
  for (LayerConfig& layer : families["mistral"].layers) layer.window = 7;
  for (LayerConfig& layer : families["qwen"].layers) layer.kv_heads = layer.heads;
  families["qwen2"].query_bias = true;
  families["qwen3"].query_key_norm = true;
  Config& opt = families["opt"] = tiny_config();
  opt.architecture = "opt";
  opt.norm = NormKind::Layer;
  opt.activation = Activation::Relu;
  opt.gated_mlp = false;
  opt.query_bias = opt.output_bias = opt.mlp_bias = true;
  opt.positions = Positions::Learned;
  opt.position_offset = 2;
  for (LayerConfig& layer : opt.layers) layer.kv_heads = layer.heads;
  for (const auto& [name, config] : families) {
    const Model model = tiny_model(DType::F32, config);
    for (const char* method : {"sparsegpt", "wanda", "magnitude", "mi"}) {
      CompressOptions options = base(method);
      options.sparsity = 0.5;
      if (options.method == "mi") options.target_avg_bits = 4;
      const CompressResult result = run(options, 2, model);
      EXPECT_NEAR(zeros(result.model), 0.5, 0.02) << name << ", " << method;
      EXPECT_NO_THROW(validate(result.model)) << name;
    }
  }
}

TEST(Driver, SlicedModelsAreRefusedByName) {
  Config config = tiny_config();
  config.sliced = true;
  config.norm = NormKind::FusedRms;
  CompressOptions options = base("magnitude");
  options.sparsity = 0.5;
  try {
    resolve(options, config);
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("sliced by SliceGPT"), std::string::npos);
  }
}

}  // namespace
}  // namespace miq

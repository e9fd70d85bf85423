// Every example that the original tools left, read, encoded, packaged and read back: the perplexity, the
// parameters and the zeros that its golden.json states. Figures are read at run time; nothing is repeated here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "miq/converters/encode.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/count.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/texts.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kData = MIQ_SOURCE_DIR "/../shared/data/";

Json golden(const std::string& folder) {
  const std::string path = std::string(kData) + "checkpoints/" + folder + "/golden.json";
  return parse_json(read_text_file(path), path);
}

// {"text", "seqlen", "windows"} of a golden.json.
double perplexity(const Model& model, const Json& protocol) {
  const bool stories = protocol.at("text") == "tiny.utf8";
  const Text text = stories ? load_text("tiny", std::string(kData) + "tinystories/tiny.utf8")
                            : load_text("wikitext2", std::string(kData) + "wikitext2/wiki.test.raw");
  ThreadPool pool;
  PerplexityOptions options;
  options.seqlen = protocol.at("seqlen").get<std::int64_t>();
  options.windows = protocol.at("windows").get<std::int64_t>();
  WalkStatistics statistics;
  const ForwardPass forward(model, ComputeType::Float32);
  return measure_perplexity(forward, {text}, options, pool, {}, statistics).front().summary.perplexity;
}

struct Example {
  std::string path, golden;
  std::string entry = {};  // of a golden.json that describes several files
};

void PrintTo(const Example& example, std::ostream* out) { *out << example.path; }

class Golden : public testing::TestWithParam<Example> {};

TEST_P(Golden, HasThePerplexityParametersAndZeros) {
  const Example& example = GetParam();
  const std::string source = std::string(kData) + "checkpoints/" + example.path;
  if (!fs::exists(source)) GTEST_SKIP() << "no shared data at " << source;
  Json stated = golden(example.golden);
  const Json protocol = stated.at("eval");
  if (!example.entry.empty()) stated = Json(stated.at(example.entry));

  ThreadPool pool;
  Model opened = open_model(source);
  const std::string digest = weights_digest(opened, pool);
  encode_model(opened, EncodePolicy::Auto, pool);
  std::string name = example.path;
  std::ranges::replace(name, '/', '_');
  const std::string container = (fs::path(testing::TempDir()) / ("miq_golden_" + name + ".miq")).string();
  save_model(opened, container);
  const Model model = load_model(container);
  fs::remove(container);
  EXPECT_EQ(weights_digest(model, pool), digest);

  const double expected = stated.value("sliced_ppl", stated.value("ppl", 0.0)), measured = perplexity(model, protocol);
  RecordProperty("perplexity", std::to_string(measured));
  EXPECT_NEAR(measured, expected, 1e-3 * expected);
  const ParameterCount count = count_parameters(model, pool);
  if (stated.contains("params")) {
    EXPECT_EQ(count.total, stated["params"]);
  }
  if (stated.contains("measured_sparsity")) {
    EXPECT_NEAR(count.sparsity(), stated["measured_sparsity"].get<double>(), 1e-12);
  }
  const Json parameters = stated.value("parameters", Json::object());
  if (parameters.contains("total")) {
    EXPECT_EQ(count.total, parameters["total"]);
  }
  if (parameters.contains("nonzero")) {
    EXPECT_EQ(count.nonzero, parameters["nonzero"]);
  }
  if (parameters.contains("decoder_linears")) {
    EXPECT_EQ(count.decoder_linears, parameters["decoder_linears"]);
  }
  if (parameters.contains("decoder_linear_zeros")) {
    EXPECT_EQ(count.decoder_linear_zeros, parameters["decoder_linear_zeros"]);
  }
}

INSTANTIATE_TEST_SUITE_P(Examples, Golden,
                         testing::Values(Example{"sparsegpt-50", "sparsegpt-50"}, Example{"sparsegpt-50-4bit", "sparsegpt-50-4bit"},
                                         Example{"sparsegpt-3bit", "sparsegpt-3bit"}, Example{"sparsegpt-2of4-4bit", "sparsegpt-2of4-4bit"},
                                         Example{"wanda-50", "wanda-50"}, Example{"magnitude-50", "magnitude-50"},
                                         Example{"mixed-bits", "mixed-bits"}, Example{"slicegpt-25", "slicegpt-25"},
                                         Example{"slicegpt-25/story_0.25.pt", "slicegpt-25"}, Example{"slicegpt-opt-20", "slicegpt-opt-20"},
                                         Example{"whole-module/slicegpt_dill.bin", "whole-module", "slicegpt_dill.bin"},
                                         Example{"whole-module/llm_pruner.bin", "whole-module", "llm_pruner.bin"},
                                         Example{"whole-module/identity_layer.bin", "whole-module", "identity_layer.bin"},
                                         Example{"whole-module/wanda.bin", "whole-module", "wanda.bin"}),
                         [](const auto& test) {
                           std::string name = test.param.path;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

// The README of the data states it: the pickle is the pair once more.
TEST(GoldenTwins, OfASlicedModelHaveOneDigest) {
  const std::string folder = std::string(kData) + "checkpoints/";
  if (!fs::exists(folder + "slicegpt-25")) GTEST_SKIP() << "no shared data at " << folder;
  ThreadPool pool;
  const Model pair = open_model(folder + "slicegpt-25"), module = open_model(folder + "whole-module/slicegpt_dill.bin");
  EXPECT_EQ(weights_digest(pair, pool), weights_digest(module, pool));
  EXPECT_EQ(pair.config.to_json(), module.config.to_json());
  for (const char* key : {"pruning_ratio", "actual_ratio", "parameter_ratio", "round_interval", "base_model", "sliced_head"}) {
    EXPECT_EQ(pair.method.at(key), module.method.at(key)) << key;
  }
}

TEST(GoldenOpt, HasThePerplexityOfItsReadme) {
  const std::string folder = std::string(kData) + "models/opt-small";
  if (!fs::exists(folder)) GTEST_SKIP() << "no shared data at " << folder;
  const double expected = golden("slicegpt-opt-20").at("dense_ppl").get<double>();  // of the same weights, by the same code
  EXPECT_NEAR(perplexity(open_model(folder), {{"text", "wt2.txt"}, {"seqlen", 256}, {"windows", 64}}), expected, 1e-3 * expected);
}

}  // namespace
}  // namespace miq

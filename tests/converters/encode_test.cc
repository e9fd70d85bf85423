// Whole models: fake-quantized checkpoints of the original tools come back as codes, bit by bit.
#include "miq/converters/encode.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "miq/base/error.h"
#include "miq/converters/open_model.h"
#include "miq/model/architecture.h"
#include "tests/converters/lattice_inputs.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCheckpoints = MIQ_SOURCE_DIR "/../shared/data/checkpoints/";

#define SKIP_WITHOUT(folder) \
  if (!fs::exists(std::string(kCheckpoints) + (folder))) GTEST_SKIP() << "no ../shared/data/checkpoints/" << (folder)

Model open_checkpoint(const std::string& folder) { return open_model(kCheckpoints + folder); }

// The model as a cast would leave it.
void cast(Model& model, DType dtype) {
  for (auto& [name, tensor] : model.tensors) {
    const Blob data = decode(tensor, name);
    std::vector<float> values(data.size() / 4);
    std::memcpy(values.data(), data.bytes().data(), data.size());
    const Shape shape = tensor.shape;
    tensor = matrix_of(values, 1, static_cast<std::int64_t>(values.size()), dtype);
    tensor.shape = shape;
  }
}

// Encodes and compares digests; returns the report.
Json encode_exactly(Model& model, EncodePolicy policy) {
  ThreadPool pool(2);
  const std::string digest = weights_digest(model, pool);
  Json report = encode_model(model, policy, pool);
  EXPECT_EQ(weights_digest(model, pool), digest);
  validate(model);
  return report;
}

std::map<std::string, std::int64_t> by_bits(const Json& report) {
  return report.at("summary").at("lattices").at("tensors_by_bits").get<std::map<std::string, std::int64_t>>();
}

// Stored bytes of the decoder linears over their bytes as `width` bytes a weight.
double linears_ratio(const Model& model, double width) {
  double stored = 0, plain = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model.config)) {
    if (!tensor.linear || tensor.layer < 0) continue;
    stored += static_cast<double>(model.tensors.at(tensor.name).stored_bytes());
    plain += static_cast<double>(model.tensors.at(tensor.name).elements()) * width;
  }
  return stored / plain;
}

struct Example {
  std::string folder;
  std::map<std::string, std::int64_t> bits;
  friend void PrintTo(const Example& example, std::ostream* out) { *out << example.folder; }
};

class FakeQuantized : public testing::TestWithParam<Example> {};

TEST_P(FakeQuantized, IsRecoveredWhole) {
  SKIP_WITHOUT(GetParam().folder);
  Model model = open_checkpoint(GetParam().folder);
  const Json report = encode_exactly(model, EncodePolicy::Auto);
  EXPECT_EQ(by_bits(report), GetParam().bits) << report.dump(1);
  EXPECT_EQ(model.source.at("encoding").at("lattices").at("found"), 14);
  EXPECT_EQ(model.statistics.at("encoding").size(), 14u);
  EXPECT_NE(encode_text(report).find("recovered bit by bit in 14 of 14"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Examples, FakeQuantized,
                         testing::Values(Example{"sparsegpt-50-4bit", {{"4", 14}}}, Example{"sparsegpt-2of4-4bit", {{"4", 14}}},
                                         Example{"sparsegpt-3bit", {{"3", 14}}}, Example{"mixed-bits", {{"3+4+6+8", 14}}}),
                         [](const auto& example) {
                           std::string name = example.param.folder;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Encode, CastsOfFakeQuantizedModelsAreRecovered) {
  SKIP_WITHOUT("sparsegpt-50-4bit");
  for (const DType dtype : {DType::F16, DType::BF16}) {
    for (const auto& [folder, bits, most] :
         {std::tuple{"sparsegpt-50-4bit", "4", 0.22}, {"sparsegpt-3bit", "3", 0.22}, {"mixed-bits", "3+4+6+8", 0.38}}) {
      Model model = open_checkpoint(folder);
      cast(model, dtype);
      const Json report = encode_exactly(model, EncodePolicy::Auto);
      EXPECT_EQ(by_bits(report), (std::map<std::string, std::int64_t>{{bits, 14}})) << report.dump(1);
      // A cast leaves room for several scales, and the report says so.
      const Json& lattices = report.at("summary").at("lattices");
      EXPECT_LT(lattices.at("proven_scales"), lattices.at("scales"));
      EXPECT_NE(encode_text(report).find("not provable"), std::string::npos);
      EXPECT_LE(linears_ratio(model, 2), most) << folder;
    }
  }
}

TEST(Encode, PrunedModelsHaveNoLattice) {
  for (const char* folder : {"wanda-50", "magnitude-50", "sparsegpt-50"}) {
    SKIP_WITHOUT(folder);
    Model model = open_checkpoint(folder);
    const Json report = encode_exactly(model, EncodePolicy::Auto);
    EXPECT_EQ(report.at("summary").at("lattices").at("found"), 0);
    EXPECT_LT(linears_ratio(model, 4), 0.55);  // values, and a bit for each weight
    for (const Json& tensor : report.at("tensors")) {
      EXPECT_TRUE(!tensor.contains("no_lattice") || tensor.at("encoding") == "bitmask") << tensor.dump();
    }
  }
}

TEST(Encode, PoliciesDoWhatTheySay) {
  SKIP_WITHOUT("sparsegpt-50-4bit");
  Model dense = open_checkpoint("sparsegpt-50-4bit"), lossless = open_checkpoint("sparsegpt-50-4bit");
  EXPECT_TRUE(encode_text(encode_exactly(dense, EncodePolicy::Dense)).empty());
  for (const auto& [name, tensor] : dense.tensors) EXPECT_EQ(tensor.encoding, Encoding::Dense);
  EXPECT_FALSE(dense.source.contains("encoding"));
  const Json report = encode_exactly(lossless, EncodePolicy::Lossless);
  EXPECT_FALSE(report.at("summary").contains("lattices"));
  for (const auto& [name, tensor] : lossless.tensors) EXPECT_NE(tensor.encoding, Encoding::Packed);
  // A model that has been encoded is left as it is, and so is what it says of itself.
  Model packed = open_checkpoint("sparsegpt-50-4bit");
  encode_exactly(packed, EncodePolicy::Auto);
  const Json source = packed.source;
  encode_exactly(packed, EncodePolicy::Auto);
  EXPECT_EQ(packed.source, source);
  // What lossless encoding hid is still found.
  encode_exactly(lossless, EncodePolicy::Auto);
  EXPECT_EQ(lossless.tensors.at("model.layers.0.self_attn.q_proj.weight").encoding, Encoding::Packed);
  EXPECT_THROW(encode_policy("best"), UsageError);
  EXPECT_EQ(encode_policy("lossless"), EncodePolicy::Lossless);
}

TEST(Encode, SameBytesAtAnyNumberOfThreads) {
  SKIP_WITHOUT("mixed-bits");
  Model a = open_checkpoint("mixed-bits"), b = open_checkpoint("mixed-bits");
  ThreadPool one(1), four(4);
  EXPECT_EQ(encode_model(a, EncodePolicy::Auto, one), encode_model(b, EncodePolicy::Auto, four));
  for (const auto& [name, tensor] : a.tensors) {
    for (const auto& [section, blob] : tensor.sections)
      EXPECT_TRUE(std::ranges::equal(blob.bytes(), b.tensors.at(name).sections.at(section).bytes())) << name;
  }
}

}  // namespace
}  // namespace miq

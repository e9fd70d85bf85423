// Tuning: gradients against finite differences, less divergence on windows that it did not see, the same bytes at any number of threads,
// and nothing changed but gains and scales.
#include "miq/compress/tune.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/tune_parameter.h"
#include "miq/model/architecture.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using test::random_ids;
using test::small_model;

PackedMatrix random_matrix(int scale_bits = 0) {
  std::mt19937 random(5);
  PackedMatrix m;
  m.rows = 7, m.cols = 20;
  m.bits_of_group = {3, 2, 4};
  m.scale_bits = scale_bits;
  if (scale_bits) {
    m.scale_dtype = DType::F32;
    m.row_exponents.assign(7, 128);
  }
  for (int c = 0; c < 20; ++c) m.group_of_column.push_back(static_cast<std::uint16_t>(random() % 3));
  for (std::int64_t g = 0; g < 3; ++g) {
    for (std::int64_t r = 0; r < 7; ++r) {
      m.scales.push_back(nearest_scale(m, g, r, 0.02f + 0.1f * static_cast<float>(random() % 1000) / 1000));
      m.zeros.push_back(static_cast<std::uint8_t>(random() % 4));
    }
  }
  for (std::size_t i = 0; i < 140; ++i) {
    m.codes.push_back(static_cast<std::uint8_t>(random() % 4));
    m.kept.push_back(random() % 5 > 0);
  }
  return m;
}

// A loss that is linear in the weights: sum of G w. Its gradient is G.
at::Tensor random_gradient() {
  std::mt19937 random(6);
  at::Tensor g = at::zeros({7, 20}, at::kFloat);
  for (int i = 0; i < 140; ++i) g.mutable_data_ptr<float>()[i] = static_cast<float>(random() % 2001) / 1000 - 1;
  return g;
}

double linear_loss(const PackedMatrix& m, const at::Tensor& gradient, const std::vector<double>& change) {
  double sum = 0;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    for (std::int64_t c = 0; c < m.cols; ++c) {
      const auto at = static_cast<std::size_t>(r * m.cols + c);
      const auto pair = static_cast<std::size_t>(m.group_of_column[static_cast<std::size_t>(c)] * m.rows + r);
      if (m.kept[at]) sum += gradient.const_data_ptr<float>()[at] * m.scales[pair] * (1 + change[pair]) * (m.codes[at] - m.zeros[pair]);
    }
  }
  return sum;
}

TEST(Tune, GradientsOfScalesAreThoseOfTheLoss) {
  const PackedMatrix m = random_matrix();
  const Tensor tensor = pack(m);
  const at::Tensor gradient = random_gradient();
  for (const bool rows : {false, true}) {
    const TuneParameter p = TuneParameter::scales("w", "w", tensor, rows);
    ASSERT_EQ(p.size(), rows ? 7u : 21u);
    const std::vector<float> got = p.reduce(gradient, to_torch(tensor, "w", at::kFloat));
    for (std::size_t i = 0; i < got.size(); ++i) {
      std::vector<double> up(21, 0.0), down(21, 0.0);
      for (std::size_t pair = 0; pair < 21; ++pair) {
        if ((rows ? pair % 7 : pair) == i) up[pair] = 1e-3, down[pair] = -1e-3;
      }
      EXPECT_NEAR(got[i], (linear_loss(m, gradient, up) - linear_loss(m, gradient, down)) / 2e-3, 1e-5) << i;
    }
  }
}

// Adam's first step moves every value by the rate, against the gradient; what is stored is the nearest that can be.
TEST(Tune, StepsAreStoredAsScalesThatTheMatrixCanHold) {
  for (const int bits : {0, 8}) {
    const PackedMatrix m = random_matrix(bits);
    const Tensor before = pack(m);
    Tensor after = before;
    TuneParameter p = TuneParameter::scales("w", "w", before, false);
    p.store(after);
    EXPECT_TRUE(std::ranges::equal(after.sections.at("scales").bytes(), before.sections.at("scales").bytes()));
    std::vector<float> gradient(21);
    for (std::size_t i = 0; i < 21; ++i) gradient[i] = i % 3 ? 0.5f : -2.0f;
    p.step(gradient, 0.05, 1);
    p.store(after);
    const PackedMatrix got = unpack(after, "w");
    for (std::size_t i = 0; i < 21; ++i) {
      const float wanted = m.scales[i] * (i % 3 ? 0.95f : 1.05f);
      EXPECT_NEAR(got.scales[i], wanted, (bits ? 0.016f : 0.0005f) * wanted) << i;
    }
    EXPECT_EQ(got.codes, unpack(before, "w").codes);
    EXPECT_EQ(got.zeros, m.zeros);
    EXPECT_EQ(got.kept, m.kept);
    p.restore();
    p.store(after);
    EXPECT_TRUE(std::ranges::equal(after.sections.at("scales").bytes(), before.sections.at("scales").bytes()));
  }
}

Config small_config(const std::string& architecture) {
  Config c;
  c.architecture = architecture;
  c.vocabulary = 60;
  c.hidden = 32;
  c.max_positions = 64;
  c.layers.assign(2, {4, 2, 8, 64});
  return c;
}

Calibration windows_of(std::int64_t count, std::int64_t vocabulary) {
  Calibration calibration;
  for (std::int64_t w = 0; w < count; ++w) calibration.windows.push_back(random_ids(24, vocabulary, static_cast<std::uint32_t>(w + 1)));
  return calibration;
}

Model at_three_bits(const Model& dense, const Calibration& calibration, ThreadPool& pool) {
  CompressOptions options;
  options.method = "gptq";
  options.wbits = 3;
  options.group_size = 16;
  options.compute = ComputeType::Float32;
  return compress(dense, calibration, resolve(options, dense.config), pool).model;
}

TuneOptions options_of(Tune what) {
  TuneOptions options;
  options.what = what;
  options.compute = ComputeType::Float32;
  options.epochs = 3;
  options.norm_rate = options.scale_rate = 1e-2;
  return options;
}

TEST(Tune, LowersTheDivergenceOnWindowsThatItDidNotSee) {
  const Model dense = small_model(small_config("llama")).model;
  const Calibration calibration = windows_of(40, 60);
  ThreadPool pool;
  const Model before = at_three_bits(dense, calibration, pool);
  for (const Tune what : {Tune::Norms, Tune::Rows, Tune::Scales}) {
    Model model = before;
    double share = 0;
    const TuneResult result = tune(dense, model, calibration, options_of(what), pool, [&](std::string_view, double part) { share += part; });
    EXPECT_NEAR(share, 1, 1e-6);
    const std::vector<double> history = result.statistics.at("held_out_kl");
    ASSERT_EQ(history.size(), 4u);
    EXPECT_EQ(result.statistics.at("held_out_windows"), 5);
    EXPECT_LT(*std::min_element(history.begin(), history.end()), (what == Tune::Scales ? 0.9 : 0.98) * history[0]) << tune_name(what);
    for (const auto& [name, tensor] : before.tensors) {
      const Tensor& now = model.tensors.at(name);
      EXPECT_EQ(now.shape, tensor.shape);
      const bool norm = tensor.shape.size() == 1;
      EXPECT_EQ(now.dtype, norm ? DType::F32 : tensor.dtype);
      for (const auto& [section, blob] : tensor.sections) {
        const bool same = std::ranges::equal(now.sections.at(section).bytes(), blob.bytes());
        const bool may_move = norm || (what != Tune::Norms && section == "scales");
        EXPECT_EQ(same, !may_move) << name << " " << section << " " << tune_name(what);
        EXPECT_EQ(now.sections.at(section).size(), blob.size());
      }
    }
  }
}

TEST(Tune, GivesTheSameBytesAtAnyNumberOfThreads) {
  const Model dense = small_model(small_config("qwen3")).model;
  const Calibration calibration = windows_of(17, 60);
  ThreadPool one(1), three(3);
  const Model start = at_three_bits(dense, calibration, one);
  Model first = start, second = start;
  const TuneResult a = tune(dense, first, calibration, options_of(Tune::Scales), one), b = tune(dense, second, calibration, options_of(Tune::Scales), three);
  EXPECT_EQ(a.statistics, b.statistics);
  for (const auto& [name, tensor] : first.tensors) {
    for (const auto& [section, blob] : tensor.sections) {
      EXPECT_TRUE(std::ranges::equal(second.tensors.at(name).sections.at(section).bytes(), blob.bytes())) << name;
    }
  }
}

TEST(Tune, NothingThatIsWorseIsKept) {
  const Model dense = small_model(small_config("llama")).model;
  const Calibration calibration = windows_of(9, 60);
  ThreadPool pool;
  Model model = dense;  // nothing to gain
  const TuneResult result = tune(dense, model, calibration, options_of(Tune::Norms), pool);
  EXPECT_EQ(result.statistics.at("kept_epoch"), 0);
  EXPECT_EQ(weights_digest(model, pool), weights_digest(dense, pool));
}

TEST(Tune, RefusesOneWindow) {
  const Model dense = small_model(small_config("llama")).model;
  ThreadPool pool;
  Model model = dense;
  EXPECT_THROW(tune(dense, model, windows_of(1, 60), options_of(Tune::Norms), pool), UsageError);
}

}  // namespace
}  // namespace miq

// Generation with a key-value cache against the forward pass over the whole text, for every family.
#include "miq/model/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/base/error.h"
#include "tests/model/small_families.h"
#include "tests/model/small_sliced.h"

namespace miq {
namespace {

using test::families;
using test::random_ids;
using test::small_model;
using test::SmallModel;

std::map<std::string, Config> all_families() {
  std::map<std::string, Config> all = families();
  all["llama, sliced to its head"] = test::sliced_config("llama", 27);
  all["opt, sliced"] = test::sliced_config("opt");
  Config config = test::odd_config();
  config.layers[1] = {};
  config.layers[1].identity = true;
  all["llama, layers of other sizes and a deleted one"] = config;
  return all;
}

// Logits [tokens, vocabulary] of one window.
at::Tensor whole(const ForwardPass& pass, std::span<const std::int32_t> ids) {
  at::Tensor hidden = pass.embed(ids);
  for (std::int64_t layer = 0; layer < pass.layers(); ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
  return pass.logits(hidden);
}

double distance(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item().toDouble(); }
double relative(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item().toDouble(); }

std::vector<float> values_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<float>(), plain.const_data_ptr<float>() + plain.numel()};
}

// Logits behind each of the ids from `first` on: a prompt, then token by token.
std::vector<at::Tensor> step_by_step(const Generator& generator, std::span<const std::int32_t> ids, std::size_t first) {
  Generator::Sequence sequence = generator.start(static_cast<std::int64_t>(ids.size()));
  std::vector<at::Tensor> logits;
  if (first > 0) logits.push_back(generator.extend(sequence, ids.subspan(0, first)));
  for (std::size_t i = first; i < ids.size(); ++i) {
    logits.push_back(generator.step(std::array{&sequence}, ids.subspan(i, 1)).squeeze(0));
  }
  EXPECT_EQ(sequence.ids, std::vector<std::int32_t>(ids.begin(), ids.end()));
  return logits;
}

TEST(Generate, StepsHaveTheForwardPasssLogitsInFloat32) {
  ThreadPool pool(2);
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config);
    const ForwardPass pass(small.model, ComputeType::Float32);
    const Generator generator(small.model, ComputeType::Float32, pool);
    const auto ids = random_ids(50, config.vocabulary, 7);
    std::vector<at::Tensor> expected;  // where angles depend on the length, so does every token's state
    for (std::size_t length = 1; length <= ids.size(); ++length) expected.push_back(whole(pass, std::span(ids).subspan(0, length))[static_cast<std::int64_t>(length) - 1]);
    for (const std::size_t prompt : {0, 1, 5, 37}) {
      const auto logits = step_by_step(generator, ids, prompt);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const std::size_t length = ids.size() - logits.size() + i + 1;
        ASSERT_LT(distance(logits[i], expected[length - 1]), 1e-4) << name << ", prompt of " << prompt << ", token " << length;
      }
    }
  }
}

TEST(Generate, PromptsMayComeInParts) {
  ThreadPool pool(2);
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config);
    const Generator generator(small.model, ComputeType::Float32, pool);
    const auto ids = random_ids(60, config.vocabulary, 8);
    Generator::Sequence at_once = generator.start(60), parts = generator.start(64);
    const at::Tensor expected = generator.extend(at_once, ids);
    at::Tensor got;
    std::size_t begin = 0;
    for (const std::size_t end : {3, 20, 21, 45, 60}) got = generator.extend(parts, std::span(ids).subspan(begin, end - begin)), begin = end;
    EXPECT_LT(distance(got, expected), 1e-4) << name;
  }
}

TEST(Generate, StepsAreTheForwardPasssInBFloat16WithinItsRounding) {
  ThreadPool pool(2);
  for (const auto& [name, config] : all_families()) {
    const SmallModel small = small_model(config, DType::BF16);
    const Generator generator(small.model, ComputeType::BFloat16, pool);
    const ForwardPass exact(small.model, ComputeType::Float32), rounded(small.model, ComputeType::BFloat16, Kernels::Portable);
    const auto ids = random_ids(40, config.vocabulary, 7);
    const auto steps = step_by_step(generator, ids, 20);
    const at::Tensor got = at::stack(steps);
    std::vector<at::Tensor> expected, window;
    for (std::size_t length = 20; length <= ids.size(); ++length) {
      expected.push_back(whole(exact, std::span(ids).subspan(0, length))[static_cast<std::int64_t>(length) - 1]);
      window.push_back(whole(rounded, std::span(ids).subspan(0, length))[static_cast<std::int64_t>(length) - 1]);
    }
    // A rounding may send a token to another expert.
    if (config.experts_per_token == 0) {
      EXPECT_LT(relative(got, at::stack(expected)), 0.05) << name;
    }
    EXPECT_LT(relative(got, at::stack(expected)), 1.5 * relative(at::stack(window), at::stack(expected)) + 0.01) << name;
  }
}

// Bit for bit: a sequence's logits depend neither on its companions nor on the threads.
TEST(Generate, SequencesDoNotDependOnEachOtherOrOnThreads) {
  ThreadPool pool(2), alone(1), many(5);
  for (const auto& [name, config] : all_families()) {
    for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
      const SmallModel small = small_model(config, DType::BF16);
      const Generator generator(small.model, type, pool), single(small.model, type, alone), wide(small.model, type, many);
      std::vector<std::vector<std::int32_t>> texts;
      for (std::uint32_t i = 0; i < 9; ++i) texts.push_back(random_ids(20 + 2 * i, config.vocabulary, i));
      std::vector<Generator::Sequence> sequences;
      std::vector<Generator::Sequence*> pointers;
      for (const auto& text : texts) {
        sequences.push_back(generator.start(60));
        generator.extend(sequences.back(), std::span(text).subspan(0, text.size() - 6));
      }
      for (auto& sequence : sequences) pointers.push_back(&sequence);
      at::Tensor together;
      for (std::size_t i = 6; i > 0; --i) {
        std::vector<std::int32_t> next;
        for (const auto& text : texts) next.push_back(text[text.size() - i]);
        together = generator.step(pointers, next);
      }
      for (std::size_t i = 0; i < texts.size(); i += 4) {
        const auto row = values_of(together[static_cast<std::int64_t>(i)]);
        EXPECT_EQ(row, values_of(step_by_step(single, texts[i], texts[i].size() - 6).back())) << name << ", sequence " << i;
        EXPECT_EQ(row, values_of(step_by_step(wide, texts[i], texts[i].size() - 6).back())) << name << ", sequence " << i;
      }
    }
  }
}

TEST(Generate, GreedyTokensAreTheForwardPasss) {
  ThreadPool pool(2);
  const Config config = test::odd_config();
  const SmallModel small = small_model(config);
  const ForwardPass pass(small.model, ComputeType::Float32);
  const Generator generator(small.model, ComputeType::Float32, pool);
  const std::vector<std::vector<std::int32_t>> prompts{random_ids(12, config.vocabulary, 1), random_ids(3, config.vocabulary, 2)};
  const auto made = generate(generator, prompts, {.max_new_tokens = 15});
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    std::vector<std::int32_t> text = prompts[i];
    for (int t = 0; t < 15; ++t) text.push_back(static_cast<std::int32_t>(whole(pass, text)[static_cast<std::int64_t>(text.size()) - 1].argmax().item().toLong()));
    EXPECT_EQ(made[i], std::vector<std::int32_t>(text.begin() + static_cast<std::ptrdiff_t>(prompts[i].size()), text.end()));
  }
  // A stop id ends its sequence and no other.
  const auto stopped = generate(generator, prompts, {.max_new_tokens = 15, .stop_ids = {made[0][4]}});
  const auto end = std::find(made[0].begin(), made[0].end(), made[0][4]);
  EXPECT_EQ(stopped[0], std::vector<std::int32_t>(made[0].begin(), end));
  EXPECT_EQ(stopped[1], std::vector<std::int32_t>(made[1].begin(), std::find(made[1].begin(), made[1].end(), made[0][4])));
}

TEST(Generate, SamplesTheSameWithTheSameSeed) {
  ThreadPool pool(2);
  const SmallModel small = small_model(test::odd_config());
  const Generator generator(small.model, ComputeType::BFloat16, pool);
  const std::vector<std::vector<std::int32_t>> prompts{random_ids(5, 101, 1), random_ids(5, 101, 1)};
  GenerateOptions options{.max_new_tokens = 30, .sampling = {.temperature = 1.3, .top_k = 40, .top_p = 0.95, .seed = 3}};
  const auto first = generate(generator, prompts, options);
  EXPECT_EQ(first, generate(generator, prompts, options));
  EXPECT_NE(first[0], first[1]);
  EXPECT_EQ(generate(generator, std::span(prompts).subspan(0, 1), options)[0], first[0]);
  options.sampling.seed = 4;
  EXPECT_NE(first[0], generate(generator, prompts, options)[0]);
}

TEST(Generate, EndsWithTheModel) {
  ThreadPool pool(1);
  Config config = test::opt_config();
  config.max_positions = 20;
  const SmallModel small = small_model(config);
  const Generator generator(small.model, ComputeType::Float32, pool);
  const std::vector<std::vector<std::int32_t>> prompts{random_ids(12, 101, 1)};
  EXPECT_EQ(generate(generator, prompts, {.max_new_tokens = 100})[0].size(), 8u);
  EXPECT_TRUE(generate(generator, prompts, {.max_new_tokens = 0})[0].empty());
  EXPECT_THROW(generate(generator, std::vector<std::vector<std::int32_t>>{random_ids(20, 101, 1)}, {}), Error);
  EXPECT_THROW(generate(generator, std::vector<std::vector<std::int32_t>>(1), {}), Error);
  Generator::Sequence sequence = generator.start(3);
  EXPECT_THROW(generator.extend(sequence, random_ids(4, 101, 1)), Error);
  EXPECT_THROW(generator.extend(sequence, std::vector<std::int32_t>{101}), Error);
  generator.extend(sequence, random_ids(3, 101, 1));
  EXPECT_THROW(generator.step(std::array{&sequence}, std::vector<std::int32_t>{1}), Error);
  EXPECT_THROW(generator.start(std::int64_t{1} << 61), Error);
}

TEST(Generate, EndIdsComeFromBothConfigs) {
  SmallModel small = small_model(test::odd_config());
  small.model.config.eos_id = 2;
  EXPECT_EQ(end_ids(small.model), (std::vector<std::int32_t>{2}));
  small.model.files["generation_config.json"] = Blob(std::string_view("{\"eos_token_id\": [7, 2, 5000, -1]}"));
  EXPECT_EQ(end_ids(small.model), (std::vector<std::int32_t>{2, 7}));
}

TEST(Sampler, DrawsByProbability) {
  const std::vector<float> logits{0, std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  std::vector<int> counts(4);
  Sampler sampler({.temperature = 1, .seed = 1});
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<std::size_t>(sampler.choose(logits))];
  for (const auto& [id, share] : {std::pair{0, 0.1}, {1, 0.2}, {2, 0.5}, {3, 0.2}}) EXPECT_NEAR(counts[static_cast<std::size_t>(id)] / 20000.0, share, 0.015);
  counts.assign(4, 0);
  Sampler two({.temperature = 1, .top_k = 2, .seed = 1});
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<std::size_t>(two.choose(logits))];
  EXPECT_NEAR(counts[1] / 20000.0, 2.0 / 7, 0.015);  // of equal ones the first
  EXPECT_EQ(counts[0] + counts[3], 0);
  counts.assign(4, 0);
  Sampler nucleus({.temperature = 1, .top_p = 0.6, .seed = 1});
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<std::size_t>(nucleus.choose(logits))];
  EXPECT_NEAR(counts[2] / 20000.0, 5.0 / 7, 0.015);
  EXPECT_EQ(counts[0] + counts[3], 0);
  EXPECT_EQ(Sampler({}).choose(logits), 2);
  EXPECT_EQ(Sampler({.temperature = 1e-9}).choose(logits), 2);
  EXPECT_EQ(Sampler({.temperature = 1, .top_p = 1e-9}).choose(logits), 2);
  EXPECT_EQ(Sampler({}).choose(std::vector<float>{1, 3, 3}), 1);
  EXPECT_THROW(Sampler({}).choose(std::vector<float>{1, NAN}), Error);
  EXPECT_THROW(Sampler({.temperature = -1}), UsageError);
  EXPECT_THROW(Sampler({.temperature = 1, .top_k = -1}), UsageError);
  EXPECT_THROW(Sampler({.temperature = 1, .top_p = 0}), UsageError);
}

}  // namespace
}  // namespace miq

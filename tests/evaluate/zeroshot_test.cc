// Questions read from JSON lines, encoded and judged; likelihoods against the naive forward pass.
#include "miq/evaluate/zeroshot.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "miq/base/error.h"
#include "miq/evaluate/memory_budget.h"
#include "miq/evaluate/zeroshot_text.h"
#include "tests/evaluate/toy.h"
#include "tests/reference/perplexity_reference.h"

namespace miq {
namespace {

using test::toy_model;

EncodedChoice encode(const Model& model, const ScoredText& text) { return encode_choice(model, text, begin_of_text(model)); }

class ZeroShot : public testing::Test {
 protected:
  void SetUp() override {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    path_ = (std::filesystem::temp_directory_path() / ("miq_zeroshot_" + std::to_string(getpid()) + name + ".jsonl")).string();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  ZeroShotTask load(const std::string& name, const std::string& lines, std::int64_t limit = 0) const {
    std::ofstream(path_, std::ios::binary) << lines;
    return load_task(name, path_, limit);
  }
  std::string refusal(const std::string& name, const std::string& lines) const {
    try {
      load(name, lines);
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find(path_), std::string::npos) << error.what();
      return error.what();
    }
    return "accepted";
  }
  std::string path_;
};

TEST_F(ZeroShot, PutsPublishedFieldsIntoWords) {
  const auto boolq = load("boolq", R"({"passage":"Tea is hot.","question":"is tea hot","answer":true})");
  ASSERT_EQ(boolq.items.size(), 1u);
  EXPECT_EQ(boolq.items[0].choices[1].context, "Tea is hot.\nQuestion: is tea hot?\nAnswer:");
  EXPECT_EQ(boolq.items[0].choices[1].continuation, " yes");
  EXPECT_EQ(boolq.items[0].answer, 1);
  EXPECT_FALSE(boolq.normalised);
  EXPECT_EQ(load("boolq", R"({"passage":"","question":"","label":0})").items[0].answer, 0);

  const auto piqa = load("piqa", R"({"goal":"Sit","sol1":"On a chair","sol2":"Im Stuhl é","label":1})");
  EXPECT_EQ(piqa.items[0].choices[0].context, "Question: Sit\nAnswer:");
  EXPECT_EQ(piqa.items[0].lengths, (std::vector<std::int64_t>{10, 10}));  // letters, not bytes

  const auto hellaswag = load("hellaswag", R"({"activity_label":"Cooking ","ctx_a":"A [step] man.","ctx_b":"THEN he","endings":[" stirs [title] it"," [header] eats  up"],"label":"1"})");
  EXPECT_EQ(hellaswag.items[0].choices[0].context, "Cooking : A man. Then he");
  EXPECT_EQ(hellaswag.items[0].choices[0].continuation, " stirs. it");
  EXPECT_EQ(hellaswag.items[0].choices[1].continuation, "  eats up");  // the space behind the bracket stays
  EXPECT_EQ(hellaswag.items[0].answer, 1);

  const auto winogrande = load("winogrande", R"({"sentence":"The cup fits the bag as _ is small .","option1":"the cup","option2":"the bag","answer":"2"})");
  EXPECT_EQ(winogrande.items[0].choices[1].context, "The cup fits the bag as the bag");
  EXPECT_EQ(winogrande.items[0].choices[0].continuation, " is small .");
  EXPECT_EQ(winogrande.items[0].answer, 1);

  const std::string arc = R"({"question":"Why?","choices":{"text":["a","b","c"],"label":["1","2","3"]},"answerKey":"3"})";
  EXPECT_EQ(load("arc_easy", arc).items[0].choices[2].context, "Question: Why?\nAnswer:");
  EXPECT_EQ(load("arc_challenge", arc).items[0].answer, 2);
  const auto openbook = load("openbookqa", R"({"question_stem":"Frogs","choices":{"text":["swim","fly"],"label":["A","B"]},"answerKey":" A"})");
  EXPECT_EQ(openbook.items[0].choices[0].context, "Frogs");
  EXPECT_EQ(openbook.items[0].answer, 0);
}

TEST_F(ZeroShot, AnyOtherTaskHasContextChoicesAnswer) {
  const std::string lines = "{\"context\":\"a\",\"choices\":[\"x\",\"y\"],\"answer\":1}\r\n\n{\"context\":\"b\",\"choices\":[\"x\",\"y\"],\"answer\":\"x\",\"delimiter\":\"\"}\n";
  const auto task = load("mine", lines);
  ASSERT_EQ(task.items.size(), 2u);
  EXPECT_EQ(task.items[0].choices[0].continuation, " x");
  EXPECT_EQ(task.items[1].choices[0].continuation, "x");
  EXPECT_EQ(task.items[1].answer, 0);
  EXPECT_EQ(task.items[1].line, 3);
  EXPECT_EQ(load("mine", lines, 1).items.size(), 1u);
}

TEST_F(ZeroShot, RefusesBadLinesByFileAndLine) {
  const std::string good = "{\"context\":\"a\",\"choices\":[\"x\",\"y\"],\"answer\":1}\n";
  const std::pair<std::string, std::string> cases[] = {
      {"nothing", "line 2: at byte"},
      {"{\"context\":\"a\",\"choices\":[\"x\",\"y\"]", "line 2: at byte"},
      {"[1]", "line 2: no JSON object"},
      {R"({"choices":["x","y"],"answer":1})", "line 2: the field 'context' is missing"},
      {R"({"context":7,"choices":["x","y"],"answer":1})", "line 2: 'context' is no text"},
      {R"({"context":"a","choices":[],"answer":0})", "line 2: fewer than two choices"},
      {R"({"context":"a","choices":["x",""],"answer":0})", "line 2: a choice is empty"},
      {R"({"context":"a","choices":["x",3],"answer":0})", "line 2: 'choices' is no list of texts"},
      {R"({"context":"a","choices":"xy","answer":0})", "line 2: 'choices' is no list of texts"},
      {R"({"context":"a","choices":["x","y"],"answer":2})", "line 2: 'answer' is '2', where 0 to 1"},
      {R"({"context":"a","choices":["x","y"],"answer":-1})", "line 2: 'answer' is '-1'"},
      {R"({"context":"a","choices":["x","y"],"answer":0.5})", "line 2: 'answer' is '0.5'"},
      {R"({"context":"a","choices":["x","y"],"answer":"z"})", "line 2: 'answer' is 'z', which is none of the choices"},
      {"{\"context\":\"\xff\",\"choices\":[\"x\",\"y\"],\"answer\":1}", "line 2: at byte"},
      {"{\"context\":\"" + std::string(1100000, 'a') + "\"}", "line 2: 1100014 bytes are more"},
      {std::string(100, '[') + std::string(100, ']'), "line 2: at byte"},
  };
  for (const auto& [line, message] : cases) EXPECT_NE(refusal("mine", good + line).find(message), std::string::npos) << refusal("mine", good + line);
  std::string many = R"({"context":"a","answer":0,"choices":["x")";
  for (int i = 0; i < 300; ++i) many += ",\"x\"";
  EXPECT_NE(refusal("mine", many + "]}").find("more than 256 choices"), std::string::npos);
  EXPECT_NE(refusal("mine", "\n \n").find("no questions"), std::string::npos);
  EXPECT_NE(refusal("boolq", R"({"passage":"a","question":"b","answer":"yes"})").find("line 1: 'answer' is neither"), std::string::npos);
  EXPECT_NE(refusal("winogrande", R"({"sentence":"a b","option1":"x","option2":"y","answer":"1"})").find("no '_'"), std::string::npos);
  EXPECT_NE(refusal("winogrande", R"({"sentence":"a _","option1":"x","option2":"y","answer":""})").find("none of the choices"), std::string::npos);
  EXPECT_NE(refusal("arc_easy", R"({"question":"q","choices":{"text":["a","b"],"label":["A"]},"answerKey":"A"})").find("2 texts and 1 labels"), std::string::npos);
  EXPECT_NE(refusal("hellaswag", R"({"activity_label":"a","ctx_a":"","ctx_b":"","endings":["x"," [y] "],"label":"0"})").find("a choice is empty"), std::string::npos);
  EXPECT_NE(refusal("arc_easy", R"({"question":"q","choices":["a","b"],"answerKey":"A"})").find("'choices' is no object"), std::string::npos);
  EXPECT_NE(refusal("winogrande", R"({"sentence":"a _","option1":"x","option2":"","answer":"1"})").find("'option2' is empty"), std::string::npos);
  EXPECT_THROW(load_task("mine", path_ + ".absent"), FormatError);
  EXPECT_THROW(find_task(path_ + ".absent", "arc_easy"), UsageError);
}

TEST(ZeroShotText, IsAsInPython) {
  EXPECT_EQ(python_strip(" \x1c\t\xC2\xA0x\xE3\x80\x80\n"), "x");
  EXPECT_EQ(trailing_space("x \xC2\xA0"), 3u);
  EXPECT_EQ(trailing_space(" "), 1u);
  EXPECT_EQ(python_capitalize("éCOLE İ ΣΑΣ"), "École i\xCC\x87 σας");
  EXPECT_EQ(hellaswag_cleaned("a [title]b [x[y] z] [q\n] [r"), "a. b z] [q\n] [r");
  EXPECT_EQ(hellaswag_cleaned("    "), "");
}

TEST(ZeroShotEncoding, SplitsAsTheHarnessDoes) {
  auto toy = toy_model(100);
  const auto ids = [&](std::string_view text) { return toy.model.tokenizer->encode(text, false); };
  const auto with_bos = [&](std::string_view text) { return toy.model.tokenizer->encode(text, true); };
  toy.model.config.bos_id = 100;
  EncodedChoice made = encode(toy.model, {"ab ", " cd"});
  EXPECT_EQ(made.ids, with_bos("ab  cd"));
  EXPECT_EQ(made.scored, 4);  // the context's space counts to the choice
  made = encode(toy.model, {"", "cd"});
  EXPECT_EQ(made.ids, with_bos("cd"));
  EXPECT_EQ(made.scored, 2);
  toy.model.config.max_positions = 6;
  made = encode(toy.model, {"0123456789", "abc"});
  EXPECT_EQ(made.ids, ids("6789abc"));  // 7: the last one is not read
  EXPECT_EQ(made.scored, 3);
  EXPECT_EQ(encode(toy.model, {"x", "abcdef"}).ids, ids("xabcdef"));
  EXPECT_THROW(encode(toy.model, {"x", "abcdefg"}), Error);
  toy.model.config.bos_id = toy.model.config.eos_id = std::nullopt;
  EXPECT_THROW(encode(toy.model, {"", "ab"}), Error);
  EXPECT_THROW(encode(toy.model, {"ab", ""}), Error);
}

// The tokenizer's files decide, then the config's ids.
TEST(ZeroShotEncoding, BeginsWithTheTokenizersToken) {
  auto toy = toy_model(100);
  auto& config = toy.model.config;
  config.bos_id = 7;
  config.eos_id = 8;
  const auto begin_with = [&](const std::string& file, const std::string& text) {
    toy.model.files.clear();
    if (!file.empty()) toy.model.files[file] = Blob(std::string_view(text));
    return begin_of_text(toy.model);
  };
  EXPECT_EQ(begin_with("", ""), 7);
  EXPECT_EQ(begin_with("tokenizer_config.json", "{}"), 7);
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":"b"})"), 'b');  // what the tokenizer makes of it
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":{"content":"<s>"},"added_tokens_decoder":{"5":{"content":"<s>"}}})"), 5);
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":null,"eos_token":"c"})"), 'c');  // as Qwen2's
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":null,"eos_token":null})"), std::nullopt);
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":null})"), 8);
  EXPECT_EQ(begin_with("tokenizer_config.json", R"({"bos_token":["b"]})"), 7);
  EXPECT_EQ(begin_with("tokenizer_config.json", "not JSON"), 7);
  EXPECT_EQ(begin_with("special_tokens_map.json", R"({"bos_token":"b"})"), 'b');
  EXPECT_EQ(begin_with("tokenizer.gguf.json", R"({"tokenizer.ggml.bos_token_id":3})"), 3);
  EXPECT_EQ(begin_with("tokenizer.gguf.json", R"({"tokenizer.ggml.bos_token_id":-3,"tokenizer.ggml.eos_token_id":4})"), 4);
  begin_with("tokenizer_config.json", R"({"bos_token":"b"})");
  EXPECT_EQ(encode(toy.model, {"", "xy"}).ids.front(), 'b');
}

std::vector<double> naive_losses(const reference::Forward& oracle, const std::vector<std::int32_t>& ids) {
  reference::Matrix x = oracle.embed(ids);
  for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(oracle.config.layers.size()); ++layer) x = oracle.run_layer(layer, x);
  return oracle.losses(x, ids);
}

ZeroShotTask made_task(int items) {
  ZeroShotTask task;
  task.name = "made";
  for (int i = 0; i < items; ++i) {
    ZeroShotItem item;
    item.line = i + 1;
    const std::string context = test::toy_text(static_cast<std::size_t>(5 + 7 * i)).content;
    for (int c = 0; c < 2 + i % 3; ++c) {
      const std::string choice = " " + test::toy_text(static_cast<std::size_t>(3 + (i * c) % 5)).content.substr(static_cast<std::size_t>(c % 3));
      item.choices.push_back({i % 4 == 3 ? context + std::string(1, static_cast<char>('A' + c)) : context, choice});
      item.lengths.push_back(python_length(choice) - 1);
    }
    item.answer = i % 2;
    task.items.push_back(item);
  }
  return task;
}

TEST(ZeroShotScores, EqualTheNaiveLoop) {
  const auto toy = toy_model(100);
  const ForwardPass forward(toy.model, ComputeType::Float32);
  ThreadPool pool(2);
  WalkStatistics walk;
  ZeroShotOptions options;
  options.tasks = {made_task(9)};
  options.item_scores = true;
  const auto results = measure_zeroshot(forward, options, pool, {}, walk);
  ASSERT_EQ(results.size(), 1u);
  ASSERT_FALSE(results[0].failed()) << results[0].failure;
  std::int64_t right = 0, right_norm = 0;
  for (std::size_t i = 0; i < 9; ++i) {
    const ZeroShotItem& item = options.tasks[0].items[i];
    std::size_t best = 0, best_norm = 0;
    const auto& scores = results[0].item_scores[i];
    for (std::size_t c = 0; c < item.choices.size(); ++c) {
      const EncodedChoice encoded = encode(toy.model, item.choices[c]);
      const auto losses = naive_losses(toy.oracle, encoded.ids);
      double expected = 0;
      for (std::size_t p = losses.size() - static_cast<std::size_t>(encoded.scored); p < losses.size(); ++p) expected -= losses[p];
      EXPECT_NEAR(scores[c], expected, 1e-4 * std::fabs(expected));
      if (scores[c] > scores[best]) best = c;
      if (scores[c] / static_cast<double>(item.lengths[c]) > scores[best_norm] / static_cast<double>(item.lengths[best_norm])) best_norm = c;
    }
    right += static_cast<std::int64_t>(best) == item.answer;
    right_norm += static_cast<std::int64_t>(best_norm) == item.answer;
  }
  const double share = static_cast<double>(right) / 9;
  EXPECT_DOUBLE_EQ(results[0].accuracy.value, share);
  EXPECT_NEAR(results[0].accuracy.standard_error, std::sqrt(share * (1 - share) / 8), 1e-12);
  EXPECT_DOUBLE_EQ(results[0].accuracy_norm.value, static_cast<double>(right_norm) / 9);
}

TEST(ZeroShotScores, AreTheSameBitsForAnyThreadsAndBatches) {
  const auto toy = toy_model(100, DType::BF16);
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    const ForwardPass forward(toy.model, type);
    std::vector<std::vector<std::vector<double>>> seen;
    for (int threads : {1, 3}) {
      for (std::uint64_t bytes : {std::uint64_t{1}, std::uint64_t{1} << 30}) {
        ThreadPool pool(threads);
        WalkStatistics walk;
        ZeroShotOptions options;
        options.tasks = {made_task(12)};
        options.item_scores = true;
        options.walk.activation_bytes = bytes;
        seen.push_back(measure_zeroshot(forward, options, pool, {}, walk).front().item_scores);
      }
    }
    for (const auto& scores : seen) EXPECT_EQ(scores, seen.front());
  }
}

// Log-likelihoods of `task`, choice by choice; `apart`: each as an item of its own, which shares nothing and stands alone in the walk.
std::vector<double> scores_of(const ForwardPass& forward, const ZeroShotTask& task, bool apart) {
  ThreadPool pool(2);
  std::vector<double> scores;
  const auto measure = [&](const ZeroShotTask& asked) {
    ZeroShotOptions options;
    options.tasks = {asked};
    options.item_scores = true;
    WalkStatistics walk;
    const auto result = measure_zeroshot(forward, options, pool, {}, walk).front();
    EXPECT_EQ(result.failure, "");
    for (const auto& item : result.item_scores) scores.insert(scores.end(), item.begin(), item.end());
    return walk.tokens;
  };
  if (!apart) {
    measure(task);
    return scores;
  }
  for (const ZeroShotItem& item : task.items) {
    for (std::size_t c = 0; c < item.choices.size(); ++c) measure({task.name, "", "", true, {{item.line, {item.choices[c]}, {item.lengths[c]}, 0}}});
  }
  return scores;
}

Config learned_positions() {
  Config config = test::odd_config();
  config.architecture = "opt";
  config.norm = NormKind::Layer;
  config.activation = Activation::Relu;
  config.gated_mlp = false;
  config.query_bias = config.output_bias = config.mlp_bias = true;
  config.positions = Positions::Learned;
  config.position_offset = 2;
  config.max_positions = 90;
  config.layers = {{3, 3, 10, 53}, {4, 4, 6, 29}};
  return config;
}

Config windowed() {
  Config config = test::odd_config();
  config.hidden = 38;
  config.layers = {{6, 2, 10, 52}, {4, 1, 16, 64}};
  config.layers[0].window = 7;
  return config;
}

Config dynamic() {
  Config config = windowed();
  config.rope_scaling.kind = RopeScaling::Kind::Dynamic;
  config.rope_scaling.factor = 2;
  config.rope_scaling.original_max_positions = 30;
  return config;
}

TEST(ZeroShotScores, SharedBeginningsGiveWhatWindowsOfTheirOwnGive) {
  ZeroShotTask task = made_task(24);
  task.items[3].choices[1] = task.items[3].choices[0];
  task.items[3].choices[1].continuation += "x";  // the other choice is its beginning
  for (const Config& config : {test::odd_config(), learned_positions(), windowed(), dynamic()}) {
    for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
      auto made = test::small_model(config, DType::BF16);
      made.model.tokenizer = std::make_shared<test::ByteTokenizer>(100);
      const ForwardPass forward(made.model, type);
      const std::vector<double> together = scores_of(forward, task, false), apart = scores_of(forward, task, true);
      ASSERT_EQ(together.size(), apart.size());
      // Our own kernels give a row the same bits wherever it stands; LibTorch's products may round otherwise.
      const bool own = type == ComputeType::BFloat16 && forward.load_layer(0).packed != nullptr;
      for (std::size_t i = 0; i < apart.size(); ++i) {
        if (own) {
          EXPECT_EQ(together[i], apart[i]) << config.architecture << " choice " << i;
        } else {
          EXPECT_NEAR(together[i], apart[i], (type == ComputeType::Float32 ? 1e-5 : 2e-2) * std::fabs(apart[i])) << config.architecture << " choice " << i;
        }
      }
    }
  }
}

TEST(ZeroShotScores, AreTheSameBitsFromTheCacheAndWithinABudget) {
  const auto toy = toy_model(100, DType::BF16);
  const std::string folder = testing::TempDir() + "miq_zeroshot_cache_" + std::to_string(::getpid());
  for (const ComputeType type : {ComputeType::Float32, ComputeType::BFloat16}) {
    std::filesystem::remove_all(folder);
    const ForwardPass forward(toy.model, type);
    ThreadPool pool(2);
    std::int64_t tokens = 0;
    const auto measure = [&](int items, const std::string& cache, std::uint64_t memory = 0) {
      ZeroShotOptions options;
      options.tasks = {made_task(items)};
      options.item_scores = true;
      options.cache.folder = cache;
      options.weights_digest = "abc";
      options.walk.memory_bytes = memory;
      WalkStatistics walk;
      const auto result = measure_zeroshot(forward, options, pool, {}, walk).front();
      EXPECT_EQ(result.failure, "");
      tokens = walk.tokens;
      return result.item_scores;
    };
    const auto plain = measure(24, "");
    EXPECT_GT(tokens, 0);
    EXPECT_EQ(measure(24, folder), plain);
    EXPECT_GT(tokens, 0);
    EXPECT_EQ(measure(24, folder), plain);
    EXPECT_EQ(tokens, 0);  // nothing walked
    EXPECT_EQ(measure(24, "", anonymous_bytes() + (std::uint64_t{96} << 20)), plain);
    EXPECT_THROW(measure(24, "", 1 << 20), Error);
  }
  std::filesystem::remove_all(folder);
}

TEST(ZeroShotScores, SharedBeginningsAreComputedOnce) {
  const auto toy = toy_model(100);
  const ForwardPass forward(toy.model, ComputeType::Float32);
  ThreadPool pool(1);
  WalkStatistics walk;
  ZeroShotOptions options;
  ZeroShotTask task;
  task.items = {{1, {{"context", " a"}, {"context", " b"}, {"context", " bcd"}, {"context", " b"}}, {1, 1, 3, 1}, 0}};
  options.tasks = {task};
  measure_zeroshot(forward, options, pool, {}, walk);
  EXPECT_EQ(walk.tokens, 1 + 7 + 3);  // the first token, the context, " bc"
}

TEST(ZeroShotScores, EqualChoicesTieAndTheFirstCounts) {
  const auto toy = toy_model(100);
  const ForwardPass forward(toy.model, ComputeType::Float32);
  ThreadPool pool(1);
  WalkStatistics walk;
  ZeroShotOptions options;
  ZeroShotTask task;
  task.items = {{1, {{"abc", " xy"}, {"abc", " xy"}}, {2, 2}, 0}, {2, {{"abc", " xy"}, {"abc", " xy"}}, {2, 2}, 1}};
  options.tasks = {task};
  const auto result = measure_zeroshot(forward, options, pool, {}, walk).front();
  EXPECT_DOUBLE_EQ(result.accuracy.value, 0.5);
  EXPECT_DOUBLE_EQ(result.accuracy.standard_error, 0.5);
}

TEST(ZeroShotScores, WhatFailsIsNamedAndLeavesTheOthers) {
  auto toy = toy_model(100);
  const Tensor& embedding = toy.model.tensors.at("model.embed_tokens.weight");
  const auto bytes = decode(embedding, "embedding").bytes();
  std::vector<std::uint8_t> changed(bytes.begin(), bytes.end());
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(changed.data() + 42 * 37 * sizeof bad, &bad, sizeof bad);  // the embedding of '*'
  toy.model.tensors.at("model.embed_tokens.weight") = dense_tensor(DType::F32, {101, 37}, Blob(std::move(changed)));
  const ForwardPass forward(toy.model, ComputeType::Float32);
  ThreadPool pool(2);
  WalkStatistics walk;
  ZeroShotOptions options;
  options.tasks = {made_task(4), made_task(4), made_task(4)};
  options.tasks[0].items[2].choices[1].context += "*";
  options.tasks[1].items[3].choices[0].continuation = "";
  const auto results = measure_zeroshot(forward, options, pool, {}, walk);
  EXPECT_NE(results[0].failure.find("not finite in line 3"), std::string::npos) << results[0].failure;
  EXPECT_NE(results[1].failure.find("line 4, choice 1: the choice has no tokens"), std::string::npos) << results[1].failure;
  EXPECT_FALSE(results[2].failed());
  EXPECT_FALSE(mean_accuracy(results, false).has_value());
  EXPECT_TRUE(mean_accuracy({results[2]}, true).has_value());
  toy.model.tokenizer = nullptr;
  EXPECT_THROW(measure_zeroshot(forward, options, pool, {}, walk), Error);
}

}  // namespace
}  // namespace miq

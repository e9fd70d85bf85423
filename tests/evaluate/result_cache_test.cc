// What is kept comes back, a damaged folder is begun anew, and an interrupted measurement goes on to the same bits.
#include "miq/evaluate/result_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "miq/base/error.h"
#include "miq/evaluate/measure_texts.h"
#include "miq/formats/digest.h"
#include "tests/evaluate/toy.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

class ResultCache : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "miq_result_cache_" + std::to_string(::getpid());
    fs::remove_all(folder_);
    options_.folder = folder_;
    options_.message = [this](const std::string& text) { said_ += text + "\n"; };
  }
  std::vector<fs::path> logs() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (entry.path().filename() == "log") found.push_back(entry.path());
    }
    return found;
  }

  std::string folder_, said_;
  CacheOptions options_;
  const Json subject_{{"results", "losses"}, {"weights", "abc"}};
};

const std::string kFirst(32, 'a'), kSecond(32, 'b');

TEST_F(ResultCache, GivesBackWhatWasStored) {
  {
    WindowResults results(options_, subject_);
    results.add(kFirst, std::vector<float>{1, 2, 3});
    results.store();
    results.add(kSecond, std::vector<float>{});
    results.store();
    results.add(std::string(32, 'c'), std::vector<float>{5});  // never stored
  }
  WindowResults again(options_, subject_);
  ASSERT_NE(again.find(kFirst, 3), nullptr);
  EXPECT_EQ(*again.find(kFirst, 3), (std::vector<float>{1, 2, 3}));
  EXPECT_NE(again.find(kSecond, 0), nullptr);
  EXPECT_EQ(again.find(kFirst, 2), nullptr);
  EXPECT_EQ(again.find(std::string(32, 'c'), 1), nullptr);
  EXPECT_EQ(WindowResults(options_, {{"results", "losses"}, {"weights", "abd"}}).find(kFirst, 3), nullptr);
  EXPECT_EQ(said_, "");
}

TEST_F(ResultCache, WithoutAFolderOrWithAnUnusableOneNothingIsKept) {
  WindowResults none(CacheOptions{}, subject_);
  none.add(kFirst, std::vector<float>{1});
  none.store();
  EXPECT_EQ(none.find(kFirst, 1), nullptr);
  std::ofstream(folder_) << "a file";
  WindowResults blocked(options_, subject_);
  blocked.add(kFirst, std::vector<float>{1});
  blocked.store();
  EXPECT_NE(said_.find("not kept"), std::string::npos);
}

TEST_F(ResultCache, ASecondUserOfTheSameSubjectGoesWithout) {
  WindowResults first(options_, subject_);
  WindowResults second(options_, subject_);
  EXPECT_NE(said_.find("another process"), std::string::npos) << said_;
}

TEST_F(ResultCache, DamagedFilesAreBegunAnew) {
  for (const std::size_t at : {std::size_t{3}, std::size_t{70}, std::size_t{150}, std::size_t{230}}) {
    fs::remove_all(folder_);
    {
      WindowResults results(options_, subject_);
      for (int i = 0; i < 6; ++i) {
        results.add(std::string(32, static_cast<char>('a' + i)), std::vector<float>(20, static_cast<float>(i)));
        results.store();
      }
    }
    ASSERT_EQ(logs().size(), 1u);
    std::fstream file(logs()[0], std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file.put('\x7f');
    file.close();
    {
      WindowResults results(options_, subject_);
      for (int i = 0; i < 6; ++i) {
        const auto* found = results.find(std::string(32, static_cast<char>('a' + i)), 20);
        if (found) {
          EXPECT_EQ(*found, std::vector<float>(20, static_cast<float>(i)));
        }
      }
      results.add(std::string(32, 'z'), std::vector<float>{7});
      results.store();
    }
    EXPECT_NE(WindowResults(options_, subject_).find(std::string(32, 'z'), 1), nullptr) << at;
  }
}

TEST_F(ResultCache, BeyondItsLimitTheLongestUnusedGoesFirst) {
  const auto subject = [](int number) { return Json{{"results", "losses"}, {"weights", std::to_string(number)}}; };
  const auto known = [&](int number) { return WindowResults(options_, subject(number)).find(kFirst, 1000) != nullptr; };
  for (int number = 0; number < 4; ++number) {
    WindowResults results(options_, subject(number));
    results.add(kFirst, std::vector<float>(1000, 1.0f));
    results.store();
  }
  int age = 4;
  for (int number : {2, 0, 3, 1}) {  // the last one was used last
    const std::string text = subject(number).dump();
    fs::last_write_time(fs::path(folder_) / ("losses-" + digest_of(Blob(text).bytes())), fs::file_time_type::clock::now() - std::chrono::hours(age--));
  }
  std::ofstream(fs::path(folder_) / "mine.txt") << std::string(100000, 'x');
  fs::create_directories(fs::path(folder_) / "losses-mine");
  options_.limit = 10000;  // two of about 4200 bytes
  limit_cache(options_);
  EXPECT_EQ(logs().size(), 2u);
  EXPECT_TRUE(fs::exists(fs::path(folder_) / "mine.txt"));
  EXPECT_TRUE(fs::exists(fs::path(folder_) / "losses-mine"));
  EXPECT_TRUE(known(1));
  EXPECT_TRUE(known(3));
  EXPECT_FALSE(known(2));
  limit_cache(CacheOptions{});
}

TEST_F(ResultCache, WindowsDifferByTokensAndFirstPosition) {
  const std::vector<std::int32_t> ids{1, 2, 3}, others{1, 2, 4};
  EXPECT_EQ(window_digest(ids, 0), window_digest(ids, 0));
  EXPECT_NE(window_digest(ids, 0), window_digest(ids, 1));
  EXPECT_NE(window_digest(ids, 0), window_digest(others, 0));
}

// Losses and divergence of a run that finds `windows` of them in the cache equal those of a run without, and only the rest is walked.
TEST_F(ResultCache, AnInterruptedMeasurementGoesOn) {
  const auto dense = test::toy_model(100);
  auto other = test::small_model(test::odd_config(), DType::F32, 9);
  other.model.tokenizer = dense.model.tokenizer;
  const std::vector<Text> texts{test::toy_text(200)};
  ThreadPool pool(2);
  PerplexityOptions options;
  options.seqlen = 16;
  struct Outcome {
    TextMeasures dense, other;
    std::int64_t walked = 0;
  };
  const auto measure = [&](std::int64_t windows, const CacheOptions& cache) {
    options.windows = windows;
    DivergenceReference reference("dense", std::make_shared<const Model>(dense.model), ComputeType::Float32, ScratchFolder(testing::TempDir()));
    reference.digest = "dense";
    WalkStatistics walk;
    const ForwardPass forward(other.model, ComputeType::Float32);
    Outcome outcome;
    outcome.dense = measure_texts(reference.forward(), texts, options, {&reference, &cache, "dense", false}, pool, {}, walk);
    outcome.other = measure_texts(forward, texts, options, {&reference, &cache, "other", false}, pool, {}, walk);
    outcome.walked = walk.tokens;
    return outcome;
  };
  const Outcome plain = measure(0, CacheOptions{});
  EXPECT_EQ(plain.walked, 2 * 12 * 16);
  EXPECT_EQ(measure(5, options_).walked, 2 * 5 * 16);
  const Outcome rest = measure(0, options_);
  EXPECT_EQ(rest.walked, 2 * 7 * 16);
  const Outcome all = measure(0, options_);
  EXPECT_EQ(all.walked, 0);
  for (const Outcome* outcome : {&rest, &all}) {
    EXPECT_EQ(outcome->dense.perplexity[0].summary.window_nll, plain.dense.perplexity[0].summary.window_nll);
    EXPECT_EQ(outcome->other.perplexity[0].summary.window_nll, plain.other.perplexity[0].summary.window_nll);
    ASSERT_FALSE(outcome->other.divergence[0].failed()) << outcome->other.divergence[0].failure;
    EXPECT_EQ(outcome->other.divergence[0].mean, plain.other.divergence[0].mean);
    EXPECT_EQ(outcome->other.divergence[0].same_top, plain.other.divergence[0].same_top);
    EXPECT_EQ(outcome->other.divergence[0].loss_correlation, plain.other.divergence[0].loss_correlation);
  }
  EXPECT_EQ(said_, "");
}

}  // namespace
}  // namespace miq

// convert-slicegpt as a user meets it, on the example that the original tool left.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "miq/model/model.h"
#include "tests/tools/command_outcome.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

using test::Outcome;

class ConvertSliceGpt : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kData / "checkpoints/slicegpt-25")) GTEST_SKIP() << "no shared data at " << kData;
    work_ = fs::path(testing::TempDir()) / ("miq_convert_slicegpt_" + std::to_string(::getpid()));
    fs::remove_all(work_);
    fs::create_directories(work_);
    fs::copy_file(kData / "checkpoints/slicegpt-25/story_0.25.pt", work_ / "story_0.25.pt");
    fs::copy_file(kData / "checkpoints/slicegpt-25/story_0.25.pt", work_ / "slices.pt");
    base_ = " --base_model '" + (kData / "models/story").string() + "'";
  }
  void TearDown() override {
    if (!work_.empty()) fs::remove_all(work_);
  }
  Outcome run(const std::string& arguments) const { return test::run_command(work_, "convert-slicegpt --quiet " + arguments); }
  const fs::path kData = fs::path(MIQ_SOURCE_DIR "/../shared/data");
  fs::path work_;
  std::string base_;
};

TEST_F(ConvertSliceGpt, WritesAContainerWhateverTheEnding) {
  const Outcome outcome = run("--slicegpt_model story_0.25.pt --output sliced.bin" + base_);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("sliced.bin will be a .miq container"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.out.find("pruning ratio 0.25"), std::string::npos) << outcome.out;
  const Model model = load_model((work_ / "sliced.bin").string());
  EXPECT_TRUE(model.config.sliced);
  EXPECT_EQ(model.method.at("round_interval"), 8);
  EXPECT_EQ(model.method.at("base_model"), "story");
  ASSERT_TRUE(model.tokenizer) << "of the base model's folder";
}

TEST_F(ConvertSliceGpt, TakesTheNumbersThatNothingElseStates) {
  ASSERT_EQ(run("--slicegpt-model slices.pt --sparsity 0.25 --round-interval 8 -o a.miq" + base_).code, 0);
  EXPECT_EQ(load_model((work_ / "a.miq").string()).method.at("pruning_ratio"), 0.25);
  const Outcome outcome = run("--slicegpt-model slices.pt --sparsity 0.3 --encode dense --json -o b.miq" + base_);
  EXPECT_EQ(outcome.code, 1);
  for (const char* word : {"slices.pt", "0.3", "88", "96", "--sparsity"}) {
    EXPECT_NE(outcome.err.find(word), std::string::npos) << word << " in " << outcome.err;
  }
  EXPECT_FALSE(fs::exists(work_ / "b.miq"));
}

TEST_F(ConvertSliceGpt, RefusesWrongUse) {
  EXPECT_EQ(run("").code, 2);
  EXPECT_EQ(run("--slicegpt-model slices.pt --sparsity 2 -o a.miq" + base_).code, 2);
  EXPECT_EQ(run("--slicegpt-model absent.pt -o a.miq" + base_).code, 1);
  EXPECT_EQ(run("--slicegpt-model slices.pt -o a.miq").code, 1);  // no config beside it
  EXPECT_EQ(run("--slicegpt-model slices.pt -o a.miq --base-model '" + (kData / "models/opt-small").string() + "'").code, 1);
  EXPECT_FALSE(fs::exists(work_ / "a.miq"));
}

}  // namespace
}  // namespace miq

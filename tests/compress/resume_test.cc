// A compression that was stopped anywhere and goes on from its journal makes the bytes of one that was never interrupted.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/run_journal.h"
#include "tests/formats/journal_files.h"
#include "tests/model/small_model.h"

namespace miq {
namespace {

using namespace test;

Config four_layers() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = 80;
  config.hidden = 32;
  config.max_positions = 64;
  config.layers = {{4, 2, 8, 48}, {4, 2, 8, 64}, {2, 1, 16, 48}, {4, 4, 8, 32}};
  config.tied_head = true;
  return config;
}

Calibration windows() {
  Calibration calibration;
  for (std::uint32_t w = 0; w < 20; ++w) calibration.windows.push_back(test::random_ids(24, 80, w));
  calibration.description = {{"text", "none"}};
  return calibration;
}

struct Stop {};

class ResumeTest : public JournalTest, public testing::WithParamInterface<int> {
 protected:
  ResumeTest() : model_(test::small_model(four_layers(), DType::BF16, 1, 0.8f).model) {
    CompressOptions options;
    options.compute = ComputeType::Float32;
    const char* methods[] = {"sparsegpt", "mixed", "mi", "enhanced", "rtn"};
    options.method = methods[GetParam()];
    options.wbits = 4;
    if (GetParam() < 3) options.sparsity = 0.4;
    if (GetParam() == 1 || GetParam() == 2) options.group_size = 16;
    if (GetParam() == 1) options.tune = Tune::Scales, options.tune_epochs = 1;  // which begins anew, behind layers from the journal
    recipe_ = resolve(options, model_.config);
  }

  std::string stored(const CompressResult& result) {
    save_model(result.model, (work_ / "out.miq").string());
    return slurp(work_ / "out.miq") + result.summary;
  }
  std::string uninterrupted() { return stored(compress(model_, calibration_, recipe_, pool_)); }

  // Goes on until `steps` progress reports; nothing when it was stopped by them.
  std::optional<std::string> run_for(int steps, std::string* found = nullptr) {
    RunJournal journal(folder_, true, model_, calibration_, recipe_, pool_);
    if (found) *found = journal.found();
    try {
      CompressResult result = compress(model_, calibration_, recipe_, pool_, [&](const Progress& p) {
        EXPECT_LE(p.done, p.total * (1 + 1e-9));
        if (steps-- == 0) throw Stop();
      }, {}, &journal);
      return stored(result);
    } catch (const Stop&) {
      return std::nullopt;
    }
  }

  const Model model_;
  const Calibration calibration_ = windows();
  Recipe recipe_;
  ThreadPool pool_{2};
};

TEST_P(ResumeTest, StoppedAnywhereAndResumedGivesTheSameBytes) {
  const std::string expected = uninterrupted();
  for (int steps = 0;; ++steps) {
    fs::remove_all(folder_);
    if (run_for(steps)) break;
    const auto resumed = run_for(1 << 20);
    ASSERT_TRUE(resumed);
    EXPECT_TRUE(*resumed == expected) << "stopped at step " << steps;
  }
  // And once more when everything is in the journal.
  EXPECT_TRUE(*run_for(1 << 20) == expected);
}

TEST_P(ResumeTest, StoppedInEveryLayerGivesTheSameBytes) {
  const std::string expected = uninterrupted();
  const bool planned = recipe_.method->layout == Layout::Groups;
  int attempts = 0;
  std::optional<std::string> result;
  const int reports = !needs_calibration(recipe_) ? 1 : recipe_.true_sequential ? 5 : 3;  // of a layer
  for (; !result && attempts < 30; ++attempts) result = run_for(reports);
  if (!result && recipe_.tune != Tune::None) result = run_for(1 << 20);  // its epochs begin anew each time
  ASSERT_TRUE(result);
  EXPECT_TRUE(*result == expected);
  EXPECT_GE(attempts, planned ? 6 : 4);
}

TEST_P(ResumeTest, TornJournalsAndSlotsGiveTheSameBytes) {
  const std::string expected = uninterrupted();
  ASSERT_TRUE(run_for(1 << 20));
  const std::string log_bytes = slurp(log());
  const std::string slots[] = {slurp(fs::path(folder_) / "states.0"), slurp(fs::path(folder_) / "states.1")};
  const auto restore = [&](std::size_t size) {
    spill(log(), std::string_view(log_bytes).substr(0, size));
    for (int s = 0; s < 2; ++s) {
      if (!slots[s].empty()) spill(fs::path(folder_) / ("states." + std::to_string(s)), slots[s]);
    }
  };
  // The states of layers 1 and 2 (from 0) are what the slots hold: the last layer keeps none.
  const JournalLog parsed = read_journal_log(Blob(log_bytes), "log");
  std::vector<std::size_t> ends{log_bytes.size()};
  for (auto record = parsed.records.rbegin(); record != parsed.records.rend(); ++record) ends.push_back(ends.back() - record->size() - 64);
  const std::size_t last = ends[1], before = ends[2];  // where the last record and the one before it begin
  for (std::size_t size : {last, last + 1, last + 64, last + 100, log_bytes.size() - 1}) {
    restore(size);
    std::string found;
    const auto resumed = run_for(1 << 20, &found);
    ASSERT_TRUE(resumed);
    EXPECT_TRUE(*resumed == expected) << size;
    EXPECT_EQ(found.find("not whole") != std::string::npos, size != last) << found;
  }
  if (!needs_calibration(recipe_)) return;
  // The slot of layer 2 is torn: its record goes too, and layer 1's states are whole.
  restore(last);
  std::string torn = slots[0];
  torn.back() ^= 4;
  spill(fs::path(folder_) / "states.0", torn);
  std::string found;
  auto resumed = run_for(1 << 20, &found);
  ASSERT_TRUE(resumed);
  EXPECT_TRUE(*resumed == expected);
  EXPECT_NE(found.find("resuming with 2 of 4 layers (the last record was not whole)"), std::string::npos) << found;
  // Killed while it overwrote a slot: the record before is what counts.
  restore(before);
  spill(fs::path(folder_) / "states.0", torn.substr(0, 100));
  resumed = run_for(1 << 20);
  ASSERT_TRUE(resumed);
  EXPECT_TRUE(*resumed == expected);
  // Both gone.
  restore(last);
  for (const char* name : {"states.0", "states.1"}) fs::remove(fs::path(folder_) / name);
  EXPECT_THROW(run_for(1), FormatError);
}

TEST_P(ResumeTest, OtherRunsAreRefused) {
  run_for(2);
  Calibration other = calibration_;
  other.windows[3][5] ^= 1;
  EXPECT_EQ(message_of([&] { RunJournal(folder_, true, model_, other, recipe_, pool_); }).empty(), !needs_calibration(recipe_));
  Model changed = model_;
  std::string norm(changed.tensors.at("model.norm.weight").sections.at("data").text());
  norm[1] ^= 1;
  changed.tensors.at("model.norm.weight").sections["data"] = Blob(norm);
  const std::string message = message_of([&] { RunJournal(folder_, true, changed, calibration_, recipe_, pool_); });
  EXPECT_NE(message.find("weights was"), std::string::npos) << message;
  Recipe recipe = recipe_;
  recipe.width = recipe.width ? 3 : 0;
  recipe.target = recipe.target ? std::optional<double>(3) : std::nullopt;
  EXPECT_NE(message_of([&] { RunJournal(folder_, true, model_, calibration_, recipe, pool_); }).find("method/"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Methods, ResumeTest, testing::Range(0, 5));

}  // namespace
}  // namespace miq

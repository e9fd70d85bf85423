// The journal of a run by several processes: the bytes of one, written and read with one window in hand.
#include "miq/compress/rank_journal.h"

#include <gtest/gtest.h>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

#include "miq/base/error.h"
#include "miq/compress/compress.h"
#include "miq/compress/rank_sums.h"
#include "miq/formats/journal.h"
#include "tests/model/small_model.h"
#include "tests/reference/small_memory.h"
#include "tests/reference/thread_ranks.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string safe_name() {
  std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

class RankJournalTest : public testing::Test {
 protected:
  void SetUp() override {
    work_ = fs::path(testing::TempDir()) / ("miq_rank_journal_" + safe_name());
    fs::remove_all(work_);
    fs::create_directories(work_);
  }
  void TearDown() override { fs::remove_all(work_); }
  fs::path work_;
};

// A group that says which window rank 0 is about to get from another rank.
class Watched : public Ranks {
 public:
  Watched(Ranks& ranks, std::function<void()> before_receiving) : ranks_(ranks), before_receiving_(std::move(before_receiving)) {}
  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }
  using Ranks::broadcast;
  using Ranks::sum;
  void sum(std::span<double> values, int to) override { ranks_.sum(values, to); }
  void broadcast(std::span<std::uint8_t> bytes, int from) override { ranks_.broadcast(bytes, from); }
  void send(std::span<const std::uint8_t> bytes, int to) override { ranks_.send(bytes, to); }
  void receive(std::span<std::uint8_t> bytes, int from) override {
    if (first()) before_receiving_();
    ranks_.receive(bytes, from);
  }
  void barrier() override { ranks_.barrier(); }

 private:
  Ranks& ranks_;
  std::function<void()> before_receiving_;
};

TEST_F(RankJournalTest, OneWindowIsHeldAtATime) {
  constexpr std::int64_t kWindows = 7, kTokens = 16, kWidth = 1024;
  constexpr std::int64_t kBytes = kTokens * kWidth * 4, kSlack = 8 << 10;
  std::vector<at::Tensor> states;
  std::string expected;
  for (std::int64_t w = 0; w < kWindows; ++w) {
    states.push_back(at::randn({kTokens, kWidth}, at::kFloat));
    expected.append(static_cast<const char*>(states.back().const_data_ptr()), static_cast<std::size_t>(kBytes));
  }
  for (int size : {1, 2, 3}) {
    // On a device each process makes a copy in host memory as well, of one window.
    for (const bool copied : {false, true}) {
      SCOPED_TRACE(std::to_string(size) + " processes" + (copied ? ", states on devices" : ""));
      const fs::path folder = work_ / (std::to_string(size) + (copied ? "d" : "h"));
      std::optional<Journal> journal(Journal::create(folder.string(), {{"run", size}}));
      std::string digest;
      std::int64_t received = 0;
      std::vector<at::Tensor> found(kWindows);
      for (at::Tensor& state : found) state = at::empty({kTokens, kWidth}, at::kFloat);
      reference::SmallMemory memory(copied ? size * kBytes + kSlack : (size > 1 ? kBytes : 0) + kSlack);
      reference::run_ranks(size, [&](Ranks& others) {
        // By the time that a window comes, those before it are in the file.
        Watched ranks(others, [&] {
          while (owner_of(others, received) == 0) ++received;
          EXPECT_EQ(fs::file_size(folder / "states.1"), static_cast<std::uintmax_t>(received++ * kBytes));
        });
        const StateSource own{share_of(ranks, kWindows), [&](std::int64_t w) {
          const at::Tensor& state = states[static_cast<std::size_t>(w * ranks.size() + ranks.rank())];
          return copied ? state.clone() : state;
        }};
        gather_windows(ranks, own, [&](const StateSource& all) {
          EXPECT_EQ(all.windows, kWindows);
          at::Tensor state;
          std::int64_t next = 0;
          digest = journal->write_slot(1, [&]() -> Bytes {
            state = at::Tensor();
            if (next == all.windows) return {};
            state = all.state(next++);
            return {static_cast<const std::uint8_t*>(state.const_data_ptr()), static_cast<std::size_t>(state.nbytes())};
          });
        });
      });
      EXPECT_TRUE(slurp(folder / "states.1") == expected);
      EXPECT_EQ(received > 0, size > 1);
      // And back: each process holds one window beside its own.
      memory.set_limit(memory.used() + size * kBytes + kSlack);
      reference::run_ranks(size, [&](Ranks& ranks) {
        const StateShape shape = ranks.first() ? StateShape{kWindows, kTokens, kWidth} : StateShape{};
        scatter_windows(ranks, shape, [&](const StateSink& all) {
          at::Tensor state;
          std::int64_t window = -1;
          EXPECT_TRUE(journal->read_slot(1, expected.size(), [&]() -> std::span<std::uint8_t> {
            if (window >= 0) all(window, std::move(state));
            state = at::Tensor();
            if (++window == kWindows) return {};
            state = at::empty({kTokens, kWidth}, at::kFloat);
            return {static_cast<std::uint8_t*>(state.mutable_data_ptr()), static_cast<std::size_t>(state.nbytes())};
          }, digest));
        }, [&](std::int64_t w, const at::Tensor& state) { found[static_cast<std::size_t>(w * ranks.size() + ranks.rank())].copy_(state); });
      });
      EXPECT_EQ(memory.refused, 0);
      for (std::size_t w = 0; w < found.size(); ++w) EXPECT_TRUE(found[w].equal(states[w])) << w;
    }
  }
}

// --- whole runs

Config three_layers() {
  Config config;
  config.architecture = "llama";
  config.vocabulary = 80;
  config.hidden = 32;
  config.max_positions = 64;
  config.layers = {{4, 2, 8, 48}, {4, 2, 8, 64}, {2, 1, 16, 48}};
  config.tied_head = true;
  return config;
}

struct Stop {};

class RankRuns : public RankJournalTest, public testing::WithParamInterface<const char*> {
 protected:
  RankRuns() : model_(test::small_model(three_layers(), DType::BF16, 1, 0.8f).model) {
    for (std::uint32_t w = 0; w < 19; ++w) calibration_.windows.push_back(test::random_ids(24, 80, w));
    calibration_.description = {{"text", "none"}};
    CompressOptions options;
    options.compute = ComputeType::Float32;
    options.method = GetParam();
    options.wbits = 4;
    options.group_size = 16;
    recipe_ = resolve(options, model_.config);
  }

  // A run by so many processes that is stopped at this report; its summary when it was not.
  std::optional<std::string> run(int size, const std::string& folder, int reports) {
    std::optional<std::string> made;
    std::optional<RunJournal> journal;
    {
      ThreadPool pool(1);
      journal.emplace(folder, true, model_, calibration_, recipe_, pool);
    }
    reference::run_ranks(size, [&](Ranks& ranks) {
      ThreadPool pool(1);
      int left = reports;
      try {
        const CompressResult result = compress(model_, calibration_, recipe_, pool, [&](const Progress&) {
          if (left-- == 0) throw Stop();
        }, {}, ranks.first() ? &*journal : nullptr, {}, ranks);
        if (!ranks.first()) return;
        save_model(result.model, (work_ / "out.miq").string());
        made = slurp(work_ / "out.miq") + result.summary;
      } catch (const Stop&) {
      }
    });
    return made;
  }
  static std::map<std::string, std::string> files(const fs::path& folder) {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(folder)) all[entry.path().filename().string()] = slurp(entry.path());
    return all;
  }

  const Model model_;
  Calibration calibration_;
  Recipe recipe_;
};

TEST_P(RankRuns, WriteTheJournalOfOne) {
  for (const int reports : {1 << 20, 5}) {
    const auto alone = run(1, (work_ / "one").string(), reports);
    const auto expected = files(work_ / "one");
    ASSERT_TRUE(expected.contains("states.0"));
    ASSERT_EQ(expected.contains("states.2"), recipe_.method->layout == Layout::Groups);
    for (const int size : {2, 3}) {
      const auto together = run(size, (work_ / "several").string(), reports);
      EXPECT_TRUE(together == alone);
      const auto found = files(work_ / "several");
      ASSERT_EQ(found.size(), expected.size());
      for (const auto& [name, bytes] : expected) EXPECT_TRUE(found.at(name) == bytes) << name << " of " << size << " processes";
      fs::remove_all(work_ / "several");
    }
    fs::remove_all(work_ / "one");
  }
}

TEST_P(RankRuns, GoOnWithAnotherNumber) {
  const std::string folder = (work_ / "journal").string();
  const auto expected = run(1, folder, 1 << 20);
  ASSERT_TRUE(expected);
  constexpr std::pair<int, int> kNumbers[] = {{1, 3}, {3, 2}, {2, 1}};
  for (int reports = 1;; ++reports) {
    fs::remove_all(folder);
    const auto [before, after] = kNumbers[reports % 3];
    if (run(before, folder, reports)) break;
    EXPECT_TRUE(run(after, folder, 1 << 20) == expected) << "stopped at report " << reports;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, RankRuns, testing::Values("gptq", "mixed"), [](const auto& method) { return std::string(method.param); });

}  // namespace
}  // namespace miq

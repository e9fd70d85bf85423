// The anonymous memory of an evaluation: bounded by what a walk holds, for one window and for 64, and no more with more texts or models.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"
#include "miq/model/bf16_product.h"
#include "miq/model/forward.h"
#include "tests/model/small_model.h"
#include "tests/sanitized.h"
#include "tests/tools/byte_tokenizer.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr double kMega = 1 << 20;
constexpr std::int64_t kTokens = 256, kThreads = 2;

class MemoryOfEvaluation : public testing::Test {
 protected:
  void SetUp() override {
    if (test::kAddressSanitizer) GTEST_SKIP() << "AddressSanitizer keeps freed memory";
    work_ = fs::path(testing::TempDir()) / ("miq_memory_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(work_);
    fs::create_directories(work_);
    Config config;
    config.architecture = "llama";
    config.vocabulary = 256;
    config.hidden = 512;
    config.max_positions = 1024;
    config.layers.assign(6, {8, 4, 64, 1536});
    config.tied_head = true;
    model_ = test::small_model(config, DType::BF16, 1, 0.8f).model;
    const std::string tokenizer = test::byte_tokenizer();
    model_.files.emplace("tokenizer.json", Blob(std::string_view(tokenizer)));
    model_.tokenizer = load_tokenizer(model_.files, "the test");
    save_model(model_, (work_ / "model.miq").string());
    for (int number = 0; number < 4; ++number) {
      std::ofstream text(work_ / ("text" + std::to_string(number)));
      for (int i = 0; i < 400; ++i) text << "Sentence " << number << " " << i * i << " says little, but says it well.\n";
    }
  }
  void TearDown() override {
    if (!work_.empty()) fs::remove_all(work_);
  }

  // The memory of each model, in MiB.
  struct Figures {
    double idle, peak;
  };
  std::vector<Figures> run(const std::string& arguments) {
    const std::string command = "cd " + work_.string() + " && " MIQ_TOOLS_DIR "/run-eval " + arguments +
                                " --metrics ppl,memory --dtype auto --no-cache --threads 2 --seqlen 256 --output report.json > out.txt 2>&1";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << read_text_file((work_ / "out.txt").string());
    std::vector<Figures> figures;
    const Json report = parse_json(read_text_file((work_ / "report.json").string()), "report.json");
    for (const Json& model : report.at("models")) {
      const Json& memory = model.at("memory");
      figures.push_back({memory.at("idle_anonymous_bytes").get<double>() / kMega, memory.at("peak_anonymous_bytes").get<double>() / kMega});
    }
    return figures;
  }

  // Two layers, embedding and head where they are decoded, activations, loss blocks.
  double bound(std::int64_t windows) const {
    const ForwardPass forward(model_, have_bf16_kernels() ? ComputeType::BFloat16 : ComputeType::Float32);
    const WalkMemory memory = forward.walk_memory(kTokens);
    const auto bytes = memory.head + 2 * memory.kept + memory.loading + static_cast<std::uint64_t>(std::min(windows, kThreads)) * memory.work +
                       static_cast<std::uint64_t>(windows) * memory.window;
    const std::uint64_t decoded = have_bf16_kernels() ? 0 : forward.global_bytes();
    return static_cast<double>(bytes + decoded) / kMega;
  }

  // The allocator's own and what it keeps of freed memory (wavers by 5 MiB between runs), tokenizer, text and tokens, the report; a thread's stack and buffers.
  static constexpr double kRest = 12;

  fs::path work_;
  Model model_;
};

TEST_F(MemoryOfEvaluation, IsWhatAWalkHoldsForOneWindowAndForMany) {
  for (const std::int64_t windows : {1, 64}) {
    const auto figures = run("model.miq --dataset one=text0 --windows " + std::to_string(windows));
    ASSERT_EQ(figures.size(), 1u);
    EXPECT_LE(figures[0].peak - figures[0].idle, 1.2 * bound(windows) + kRest) << windows << " windows";
    RecordProperty("windows" + std::to_string(windows), std::to_string(figures[0].peak - figures[0].idle) + " of " + std::to_string(bound(windows)) + " MiB");
  }
}

TEST_F(MemoryOfEvaluation, DoesNotGrowWithTextsOrModels) {
  const std::string one = "--dataset one=text0 --windows 8", four = "--dataset one=text0,two=text1,three=text2,four=text3 --windows 2";
  const double first = run("model.miq " + one).at(0).peak;
  EXPECT_LE(run("model.miq " + four).at(0).peak, first + kRest);  // as many windows in flight
  // A peak is sampled and wavers by a few MiB; eight models show what one more would cost from about 1 MiB on (a layer has 6).
  const auto models = run("a=model.miq b=model.miq c=model.miq d=model.miq e=model.miq f=model.miq g=model.miq h=model.miq " + one);
  ASSERT_EQ(models.size(), 8u);
  for (const Figures& model : models) {
    EXPECT_LE(model.peak, first + kRest);
    RecordProperty("over_first_" + std::to_string(&model - models.data()), std::to_string(model.peak - first) + " MiB");
  }
}

}  // namespace
}  // namespace miq

// What miq-compress measures of mutual information goes through the container and run-eval to the page that people read.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

int run(const fs::path& folder, const std::string& command) {
  const int status = std::system(("cd " + folder.string() + " && " MIQ_TOOLS_DIR "/" + command + " > out.txt 2>&1").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(InformationPage, ShowsTheMatrixBetweenGroupsThatTheContainerHolds) {
  const fs::path work = fs::path(testing::TempDir()) / "miq_information_page";
  fs::remove_all(work);
  fs::create_directories(work);
  Config config;
  config.architecture = "llama";
  config.vocabulary = 256;
  config.hidden = 48;
  config.max_positions = 128;
  config.layers.assign(2, {4, 2, 12, 96});
  config.tied_head = true;
  Model model = test::small_model(config, DType::BF16, 1, 0.8f).model;
  const std::string tokenizer = test::byte_tokenizer();
  model.files.emplace("tokenizer.json", Blob(std::string_view(tokenizer)));
  model.tokenizer = load_tokenizer(model.files, "the test");
  save_model(model, (work / "dense.miq").string());
  std::ofstream(work / "text.txt") << [] {
    std::string text;
    for (int i = 0; i < 400; ++i) text += "Sentence number " + std::to_string(i * i) + " says little, but says it well.\n";
    return text;
  }();
  const auto said = [&] { return read_text_file((work / "out.txt").string()); };
  ASSERT_EQ(run(work, "miq-compress dense.miq text.txt -o mi.miq --method mi --wbits 4 --group-size 8 --nsamples 8 --seqlen 64"), 0) << said();
  ASSERT_EQ(run(work, "miq-compress dense.miq text.txt -o mixed.miq --method mixed --wbits 4 --group-size 8 --nsamples 8 --seqlen 64"), 0) << said();
  ASSERT_EQ(run(work, "run-eval mi.miq mixed.miq --metrics size,structure --output report.json --html report.html --no-cache"), 0) << said();
  const Json report = parse_json(read_text_file((work / "report.json").string()), "report.json");
  int shown = 0;
  for (const Json& matrix : report.at("models")[0].at("matrices")) {
    const Json& information = matrix.at("mutual_information");
    if (!information.contains("blocks")) continue;
    ++shown;
    const Json& blocks = information.at("blocks");
    ASSERT_EQ(blocks.size(), matrix.at("groups").at("count").get<std::size_t>()) << matrix;
    // Groups of equal size: the mean over all pairs within is the mean of the diagonal.
    double diagonal = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      diagonal += blocks[i][i].get<double>() / static_cast<double>(blocks.size());
      for (std::size_t j = 0; j < blocks.size(); ++j) EXPECT_EQ(blocks[i][j], blocks[j][i]);
    }
    EXPECT_NEAR(diagonal, information.at("within").get<double>(), 0.006 * diagonal) << matrix;
  }
  EXPECT_EQ(shown, 2 * 4);  // once for each input of a layer
  EXPECT_FALSE(report.at("models")[1].at("matrices")[0].contains("mutual_information"));
  const std::string page = read_text_file((work / "report.html").string());
  for (const char* input : {"layer 0, input of q", "layer 0, input of gate", "layer 1, input of down"})
    EXPECT_NE(page.find(std::string("Mutual information between groups, ") + input), std::string::npos) << input;
  fs::remove_all(work);
}

}  // namespace
}  // namespace miq

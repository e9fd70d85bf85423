// What an index, a pytorch_model.bin and the Hugging Face cache are refused for.
#include "miq/converters/weight_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "miq/base/error.h"
#include "miq/converters/hub_cache.h"
#include "miq/converters/weight_index.h"
#include "tests/converters/pickled_module.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const FormatError& error) {
    return error.what();
  }
  return "nothing was refused";
}

void expect_refused(const std::function<void()>& work, const std::string& words) {
  const std::string said = refusal(work);
  EXPECT_NE(said.find(words), std::string::npos) << words << " in: " << said;
}

TEST(WeightIndex, RefusesWhatPlacesNothing) {
  const auto read = [](const char* text) { return [text] { read_weight_index(text, "model.safetensors.index.json", ".safetensors"); }; };
  expect_refused(read("{}"), "key 'weight_map' is missing");
  expect_refused(read(R"({"weight_map": ["a"]})"), "key 'weight_map' is missing");
  expect_refused(read(R"({"weight_map": {}})"), "names no tensor");
  expect_refused(read(R"({"weight_map": {"a": 3}})"), "shard of tensor 'a' is not a string");
}

class WeightFiles : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  const fs::path folder_ = fs::temp_directory_path() / ("weight_files_test_" + std::to_string(::getpid()));
};

TEST_F(WeightFiles, RefuseAPickleThatIsNoStateDict) {
  test::TorchSketch sketch;
  const test::Ops tensor = sketch.tensor(dense_tensor(DType::F32, {2}, Blob(std::vector<std::uint8_t>(8))));
  const auto read = [&](const test::Ops& value) {
    return [&, value] {
      sketch.save((folder_ / "pytorch_model.bin").string(), value);
      read_weight_files(folder_.string());
    };
  };
  read(test::dict_ops({{"w", tensor}}))();
  expect_refused(read("](" + tensor + "e"), "does not hold a dict of tensors");
  expect_refused(read("}(K\x03" + tensor + "u"), "a key of the dict of tensors is no text");
  expect_refused(read(test::dict_ops({{"w", tensor}, {"epoch", test::json_ops(3)}})), "'epoch' is no tensor");
}

TEST_F(WeightFiles, NamesOfTheHubAreLookedUpInTheCache) {
  const std::string cache = folder_.string();
  const auto resolve = [](const std::string& name, const std::string& in) { return [=] { resolve_checkpoint(name, in); }; };
  expect_refused(resolve((folder_ / "absent").string(), cache), "no such file or folder");
  expect_refused(resolve("a word", cache), "a word: no such file or folder");
  expect_refused(resolve("some/model", ""), "in the local Hugging Face cache (none)");
  expect_refused(resolve("some/model", cache), "no model of that name in the local Hugging Face cache (" + cache + ")");
  fs::create_directories(folder_ / "models--some--model");
  expect_refused(resolve("some/model", cache), "knows the model but holds no snapshot of it");
  fs::create_directories(folder_ / "models--some--model" / "snapshots" / "0123");
  EXPECT_EQ(resolve_checkpoint("some/model", cache), (folder_ / "models--some--model" / "snapshots" / "0123").string());
  fs::create_directories(folder_ / "models--some--model" / "snapshots" / "4567");
  expect_refused(resolve("some/model", cache), "none is marked as main");
}

}  // namespace
}  // namespace miq

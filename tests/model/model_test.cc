// What validate() and load_model() refuse, each by what only its message says.
#include "miq/model/model.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "miq/base/error.h"
#include "miq/formats/container.h"
#include "tests/model/small_model.h"
#include "tests/tools/byte_tokenizer.h"

namespace miq {
namespace {

std::string refusal(const Model& model) {
  try {
    validate(model, "hostile.miq");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(ModelRecords, AreOfTheKindsThatProgramsRead) {
  Model model = test::small_model(test::odd_config()).model;
  model.method = {{"name", "slicegpt"}, {"base_model", "small"}, {"sliced_head", false}, {"pruning_ratio", 0}, {"actual_ratio", 0.25}, {"parameter_ratio", 0.2}, {"note", {1, 2}}};
  model.source = {{"format", "gguf"}};
  EXPECT_EQ(refusal(model), "");
  const Json wrong{{"name", 5}, {"base_model", {"a"}}, {"sliced_head", "no"}, {"pruning_ratio", "a quarter"}, {"actual_ratio", nullptr}, {"parameter_ratio", true}};
  for (const auto& [key, value] : wrong.items()) {
    Model hostile = model;
    hostile.method[key] = value;
    const std::string message = refusal(hostile);
    EXPECT_NE(message.find("hostile.miq: the record of its method has '" + key + "' as "), std::string::npos) << message;
  }
  model.source["format"] = 3;
  EXPECT_NE(refusal(model).find("'format' as number"), std::string::npos);
}

TEST(ModelInvariants, EachIsRefusedByName) {
  const Model good = test::small_model(test::odd_config()).model;
  const auto expect = [&](const std::function<void(Model&)>& change, const std::string& says) {
    Model model = good;
    change(model);
    const std::string message = refusal(model);
    EXPECT_NE(message.find("hostile.miq: "), std::string::npos) << says;
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  const std::string some = "model.norm.weight";
  expect([&](Model& m) { m.config.bos_id = m.config.vocabulary; }, "the begin-of-text token id 101 lies outside the embedding of 101 rows");
  expect([&](Model& m) { m.config.eos_id = m.config.vocabulary; }, "the end-of-text token id 101");
  expect([&](Model& m) { m.config.layers.resize(1000, m.config.layers[0]); }, "the config has 1000 layers, more than the");
  expect([&](Model& m) { m.tensors.erase(some); }, "tensor '" + some + "' [" + std::to_string(good.config.hidden) + "] is missing");
  expect([&](Model& m) { m.tensors.at(some) = dense_tensor(DType::F32, {1}, Blob(std::vector<std::uint8_t>(4))); }, "has shape [1], but the config asks for");
  expect([&](Model& m) {
    const auto hidden = static_cast<std::size_t>(m.config.hidden);
    m.tensors.at(some) = dense_tensor(DType::I32, {m.config.hidden}, Blob(std::vector<std::uint8_t>(4 * hidden)));
  }, "weights must be floating point");
  expect([&](Model& m) { m.tensors.emplace("model.extra", m.tensors.at(some)); }, "tensor 'model.extra'");
  expect([&](Model& m) {
    const std::string tokenizer = test::byte_tokenizer();
    m.tokenizer = load_tokenizer({{"tokenizer.json", Blob(std::string_view(tokenizer))}}, "the test");
  }, "but the embedding has only 101 rows");
}

TEST(ModelContainer, ManifestsOfOthersAreRefused) {
  const std::string path = (std::filesystem::path(testing::TempDir()) / "miq_model_test.miq").string();
  Model model = test::small_model(test::odd_config()).model;
  save_model(model, path);
  EXPECT_NO_THROW(load_model(path));
  Container container = read_container(path);
  const Json manifest = Json::parse(container.manifest);
  const auto refused = [&](const std::string& key, const Json& value) {
    Json changed = manifest;
    if (value.is_discarded()) changed.erase(key); else changed[key] = value;
    container.manifest = changed.dump();
    const std::string other = path + ".other";
    write_container(other, container);
    std::string message;
    try {
      load_model(other);
    } catch (const FormatError& error) {
      message = error.what();
    }
    std::filesystem::remove(other);
    return message;
  };
  const Json absent(Json::value_t::discarded);
  for (const char* key : {"manifest_version", "name", "config", "method", "statistics", "calibration", "source"}) {
    EXPECT_NE(refused(key, absent).find("key '" + std::string(key) + "' is missing or of the wrong kind"), std::string::npos) << key;
    EXPECT_NE(refused(key, Json::array()).find("key '" + std::string(key) + "' is missing or of the wrong kind"), std::string::npos) << key;
  }
  EXPECT_NE(refused("manifest_version", 99).find("manifest version 99 is newer than this program reads"), std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace miq

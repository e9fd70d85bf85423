// What report_json() writes is read back to the same report; damaged and foreign files are refused by name and place.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "tests/evaluate/sample_report.h"

namespace miq {
namespace {

using test::sample_report;

std::string refusal(const Json& json) {
  try {
    report_from_json(json, "old.json");
  } catch (const FormatError& error) {
    return error.what();
  }
  return "";
}

TEST(ReportRead, EveryOutputIsTheSameAfterReadingBack) {
  Report report = sample_report(3);
  report.models[1].structure->layers.push_back({0, 7, 1024, 0, 0.25});
  report.models[1].conditions = Conditions{"0.0.9", "2.10.0", "cpu", "another", "float32", 7};
  const Json json = report_json(report);
  const Report back = report_from_json(json, "report.json");
  EXPECT_EQ(report_json(back), json);
  EXPECT_EQ(report_html(back), report_html(report));
  EXPECT_EQ(report_markdown(back), report_markdown(report));
  EXPECT_EQ(back.texts(), report.texts());
}

TEST(ReportRead, ReportsOfEarlierVersionsGiveTheirAverages) {
  const Report report = sample_report(2);
  Json json = report_json(report);
  json.erase("texts");
  for (Json& model : json["models"]) {
    for (Json& matrix : model["matrices"]) {
      for (const char* key : {"kept", "code_bit_count", "stored_bit_count", "error", "groups", "mutual_information"}) matrix.erase(key);
    }
  }
  const Report back = report_from_json(json, "old.json");
  for (std::size_t m = 0; m < report.models.size(); ++m) {
    ASSERT_EQ(back.models[m].size->matrices.size(), 14u);
    EXPECT_NEAR(back.models[m].size->code_bits, report.models[m].size->code_bits, 1e-12);
    EXPECT_FALSE(back.models[m].structure.has_value());
    const MatrixBits &was = report.models[m].size->matrices[3], &now = back.models[m].size->matrices[3];
    EXPECT_NEAR(static_cast<double>(now.stored_bits), static_cast<double>(was.stored_bits), 1);
    EXPECT_EQ(now.columns_by_bits, was.columns_by_bits);
  }
}

TEST(ReportRead, DamageIsNamedByItsPlace) {
  const Json good = report_json(sample_report(1));
  EXPECT_EQ(refusal(good), "");
  const std::pair<const char*, std::function<void(Json&)>> damages[] = {
      {"no \"schema\"", [](Json& j) { j.erase("schema"); }},
      {"has schema 'miq.eval/2'", [](Json& j) { j["schema"] = "miq.eval/2"; }},
      {"holds no model", [](Json& j) { j["models"] = Json::array(); }},
      {"models is no list", [](Json& j) { j["models"] = 3; }},
      {"models[1] is no object", [](Json& j) { j["models"][1] = "x"; }},
      {"threads is below zero", [](Json& j) { j["threads"] = -1; }},
      {"models[2].bytes.file is no whole number", [](Json& j) { j["models"][2]["bytes"]["file"] = 1.5; }},
      {"models[2].bytes.file is more than makes sense", [](Json& j) { j["models"][2]["bytes"]["file"] = 18446744073709551615u; }},
      {"models[0].matrices[0].layer is more than makes sense", [](Json& j) { j["models"][0]["matrices"][0]["layer"] = 1'000'000'000'000; }},
      {"models[0].perplexity.alice29.value is no perplexity", [](Json& j) { j["models"][0]["perplexity"]["alice29"]["value"] = nullptr; }},
      {"models[0].perplexity.alice29.value is no perplexity", [](Json& j) { j["models"][0]["perplexity"]["alice29"]["value"] = -3.0; }},
      {"models[0].perplexity.alice29.window_nll holds", [](Json& j) { j["models"][0]["perplexity"]["alice29"]["window_nll"][2] = "a"; }},
      {"models[0].method_parameters is no object", [](Json& j) { j["models"][0]["method_parameters"] = Json::array(); }},
      {"models[3].matrices[0].mutual_information.blocks is not square",
       [](Json& j) { j["models"][3]["matrices"][0]["mutual_information"]["blocks"] = {{1.0}, {2.0}}; }},
      {"models[1].matrices[0].columns_by_bits.-4 is no number of bits",
       [](Json& j) { j["models"][1]["matrices"][0]["columns_by_bits"] = {{"-4", 3}}; }},
      {"models[0].failures holds", [](Json& j) { j["models"][0]["failures"] = {1}; }},
  };
  for (const auto& [message, damage] : damages) {
    Json json = good;
    damage(json);
    const std::string found = refusal(json);
    EXPECT_NE(found.find(message), std::string::npos) << message << " but: " << found;
    EXPECT_EQ(found.rfind("old.json: ", 0), 0u) << found;
  }
}

TEST(ReportRead, EveryValueMayBeOfAnyTypeWithoutHarm) {
  // Each value of the document in turn becomes something else: read or refused, and what is read can be shown.
  const Json good = report_json(sample_report(1));
  const Json flat = good.flatten();
  std::size_t refused = 0, number = 0;
  for (const auto& [path, value] : flat.items()) {
    if (++number % 11 != 0) continue;  // enough of them
    for (const Json& other : {Json(nullptr), Json(-1), Json(1e300), Json("<script>"), Json::array({1}), Json::object({{"a", 1}})}) {
      Json json = good;
      json[Json::json_pointer(path)] = other;
      try {
        const Report report = report_from_json(json, "odd.json");
        if (number % 33 != 0) continue;
        const std::string html = report_html(report);
        EXPECT_EQ(html.find("<script>"), html.rfind("<script>")) << path;  // the page's own alone
      } catch (const FormatError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 300u);
}

TEST(ReportRead, OtherFilesAreRefused) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / "miq_report_read_test.json";
  for (const char* text : {"", "GGUF....", "[1]", "{\"a\":", "{\"schema\": \"miq.eval/1\"}"}) {
    std::ofstream(path, std::ios::binary) << text;
    EXPECT_THROW(read_report(path), FormatError) << text;
  }
  std::ofstream(path, std::ios::binary) << "GGUF....";
  try {
    read_report(path);
  } catch (const FormatError& error) {
    EXPECT_NE(std::string(error.what()).find("is no report of run-eval"), std::string::npos) << error.what();
  }
  std::ofstream(path) << report_json(sample_report(1)).dump(2);
  EXPECT_EQ(read_report(path).models.size(), 6u);
  std::filesystem::remove(path);
  EXPECT_THROW(read_report(path), FormatError);
}

}  // namespace
}  // namespace miq

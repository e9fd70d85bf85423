// Keys of the JSON, escaping and self-containedness of the page, widths of the terminal table.
#include "miq/evaluate/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "miq/base/error.h"
#include "miq/evaluate/metrics.h"
#include "tests/evaluate/sample_report.h"
#include "tests/evaluate/toy.h"

namespace miq {
namespace {

using test::sample_report;

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

TEST(Report, JsonHasEveryKeyOfTheSchema) {
  const Json json = report_json(sample_report());
  EXPECT_EQ(json.at("schema"), "miq.eval/1");
  for (const char* key : {"device", "dtype", "threads", "version"}) EXPECT_TRUE(json.contains(key)) << key;
  const Json& model = json.at("models").at(1);
  for (const char* key : {"name", "path", "method", "digest", "sparsity"}) EXPECT_TRUE(model.contains(key)) << key;
  for (const char* key : {"total", "nonzero", "by_part", "decoder_linears", "decoder_linear_zeros"})
    EXPECT_TRUE(model.at("parameters").contains(key)) << key;
  for (const char* key : {"file", "weights"}) EXPECT_TRUE(model.at("bytes").contains(key)) << key;
  for (const char* key : {"code", "effective"}) EXPECT_TRUE(model.at("bits_per_weight").contains(key)) << key;
  for (const char* key : {"value", "mean_nll", "text_tokens", "tokens", "windows", "seqlen", "protocol", "text_digest"}) {
    EXPECT_TRUE(model.at("perplexity").at("alice29").contains(key)) << key;
  }
  EXPECT_TRUE(model.at("throughput").contains("tokens_per_second"));
  EXPECT_TRUE(model.at("memory").contains("peak_bytes"));
  EXPECT_EQ(model.at("method"), "sparsegpt");
  const Json& failed = json.at("models").at(5).at("perplexity").at("plrabn12");
  EXPECT_TRUE(failed.at("value").is_null());
  EXPECT_NE(failed.at("failure").get<std::string>().find("not finite"), std::string::npos);
  EXPECT_TRUE(json.at("models").at(3).at("perplexity").at("alice29").at("calibrated_on").get<bool>());
}

TEST(Report, PageEscapesNamesAndLoadsNothing) {
  const std::string html = report_html(sample_report());
  EXPECT_EQ(html.find("<b>mi-50"), std::string::npos);
  EXPECT_NE(html.find("&lt;b&gt;mi-50&lt;/b&gt; &amp; &#39;co&#39;"), std::string::npos);
  for (const char* outside : {"http://", "https://", "src=", "@import", "url(", "<link"})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
  EXPECT_EQ(html.find("Some <processor>"), std::string::npos);
}

TEST(Report, PageHasItsParts) {
  const std::string html = report_html(sample_report());
  EXPECT_EQ(count_of(html, "<svg"), count_of(html, "</svg>"));
  EXPECT_EQ(count_of(html, "against bytes on disk"), 2u);      // one drawing a text
  EXPECT_EQ(count_of(html, "aria-label=\"Bits of each"), 4u);  // the mixed models
  EXPECT_EQ(count_of(html, "aria-label=\"Error of each"), 5u);  // all but the dense one
  EXPECT_EQ(count_of(html, "aria-label=\"Groups of input"), 4u);
  EXPECT_EQ(count_of(html, "aria-label=\"Mutual information of each"), 2u);
  EXPECT_EQ(count_of(html, "aria-label=\"Loss in each window"), 2u);
  EXPECT_EQ(count_of(html, "<pre"), 6u);
  EXPECT_EQ(count_of(html, "aria-label=\"Share of zeros"), 1u);
  EXPECT_EQ(count_of(html, "<details class=\"card\">"), 6u);
  EXPECT_EQ(count_of(html, "class=\"mark\""), 1u);  // the text that calibrated
  EXPECT_NE(html.find("also calibrated the model"), std::string::npos);
  EXPECT_EQ(count_of(html, ">failed</span>"), 1u);
  EXPECT_EQ(html.find("nan"), std::string::npos);
}

TEST(Report, PageOfOneBareModelHasNoEmptyParts) {
  Report report = sample_report();
  report.models.resize(1);
  report.models[0].parameters.reset();
  report.models[0].size.reset();
  report.models[0].perplexity.clear();
  report.models[0].memory.reset();
  const std::string html = report_html(report);
  EXPECT_EQ(html.find("<svg"), std::string::npos);
  EXPECT_EQ(html.find("Perplexity against size"), std::string::npos);
  EXPECT_EQ(report_json(report).at("models").at(0).contains("parameters"), false);
}

TEST(Report, TerminalTableFitsOneHundredColumnsAndMarkdownEscapes) {
  Report report = sample_report();
  std::istringstream table(report_table(report, false).substr(0, report_table(report, false).find("\n\n")));
  for (std::string line; std::getline(table, line);) {
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
    EXPECT_LE(columns, 100) << line;
  }
  report.models[0].name = "a|b\x1b[2J";
  EXPECT_NE(report_markdown(report).find("a\\|b?"), std::string::npos);
  EXPECT_EQ(report_table(report, false).find('\x1b'), std::string::npos);
}

TEST(Report, FiguresAreForPeople) {
  EXPECT_EQ(figure_text(22.88230), "22.88");
  EXPECT_EQ(figure_text(115.276), "115.3");
  EXPECT_EQ(figure_text(1753.2), "1,753");
  EXPECT_EQ(figure_text(1234567.0), "1,234,567");
  EXPECT_EQ(figure_text(0.01234), "0.01234");
  EXPECT_EQ(figure_text(0.0), "0.000");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(98'400'000), "98.4 MB");
  EXPECT_EQ(bytes_text(1'140'000'000), "1.14 GB");
}

TEST(Metrics, ListsAreCheckedAgainstTheTable) {
  EXPECT_EQ(choose_metrics("all").size(), metrics().size());
  EXPECT_EQ(choose_metrics("size,ppl,size"), (std::vector<std::string>{"size", "ppl"}));
  try {
    choose_metrics("ppl,bleu");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("'bleu'. Known: all, ppl"), std::string::npos) << error.what();
  }
  EXPECT_THROW(choose_metrics(""), UsageError);
}

TEST(Metrics, EvaluateModelFillsWhatWasAskedForAndNothingElse) {
  const auto toy = test::toy_model(100);
  ThreadPool pool(2);
  EvaluationOptions options;
  options.texts = {test::toy_text(64)};
  options.perplexity.seqlen = 16;
  options.metrics = {"speed", "params"};
  MemoryWatch memory;
  std::vector<double> shares;  // of the work done, as it is reported
  const ProgressFunction progress = [&](const Progress& now) {
    shares.push_back(now.done / now.total);
    EXPECT_GE(shares.back(), shares.size() > 1 ? shares[shares.size() - 2] : 0) << now.stage;
    EXPECT_LE(shares.back(), 1.001) << now.stage;
  };
  const ModelReport fast = evaluate_model(toy.model, "toy.miq", options, memory, pool, progress);
  EXPECT_GT(shares.back(), 0.9);
  EXPECT_TRUE(fast.throughput && fast.throughput->synthetic && fast.throughput->tokens_per_second > 0);
  EXPECT_TRUE(fast.parameters.has_value());
  EXPECT_TRUE(fast.perplexity.empty() && !fast.size && !fast.memory);
  EXPECT_EQ(fast.digest, weights_digest(toy.model, pool));
  options.metrics = {"ppl", "speed", "memory"};
  shares.clear();
  const ModelReport full = evaluate_model(toy.model, "toy.miq", options, memory, pool, progress);
  EXPECT_GT(shares.back(), 0.9);
  ASSERT_EQ(full.perplexity.size(), 1u);
  EXPECT_EQ(full.throughput->tokens, full.perplexity[0].tokens);
  EXPECT_FALSE(full.throughput->synthetic);
  EXPECT_GT(full.memory->peak_bytes, 10'000'000u);
  EXPECT_GE(full.memory->peak_bytes, full.memory->peak_anonymous_bytes);
}

}  // namespace
}  // namespace miq

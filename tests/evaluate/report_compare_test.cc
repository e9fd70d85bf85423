// Differences, what does not compare, commands to make a model again, LaTeX.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "miq/evaluate/report_command.h"
#include "miq/evaluate/report_compare.h"
#include "tests/evaluate/sample_report.h"

namespace miq {
namespace {

using test::sample_report;

const Column& column_of(const Table& table, const std::string& title) {
  const auto found = std::find_if(table.columns.begin(), table.columns.end(), [&](const Column& c) { return c.title == title; });
  if (found == table.columns.end()) throw std::runtime_error("no column " + title);
  return *found;
}

bool notes_have(const Table& table, const std::string& part) {
  return std::any_of(table.notes.begin(), table.notes.end(), [&](const std::string& note) { return note.find(part) != std::string::npos; });
}

TEST(ReportCompare, ModelsOfOneReportAreComparedWithItsFirst) {
  const Comparison comparison = compare_reports({{"a", sample_report(2)}});
  EXPECT_EQ(comparison.reference, (std::vector<std::size_t>{0, 0, 0, 0, 0, 0}));
  const Table table = comparison_table(comparison);
  const Column& change = column_of(table, "Δ alice29");
  EXPECT_FALSE(change.cells[0].has_value);
  EXPECT_NEAR(change.cells[1].order, 100 * (51.2 / 24.31 - 1), 1e-9);
  EXPECT_EQ(change.cells[1].text, "+110.61 %");
  EXPECT_EQ(column_of(table, "Δ sparsity").cells[1].text, "0");
  EXPECT_FALSE(column_of(table, "Δ plrabn12").cells[5].has_value);  // it has no value itself
  EXPECT_TRUE(notes_have(table, "Δ: change against dense"));
}

TEST(ReportCompare, TheSameVariantMeasuredAgainIsComparedWithItself) {
  Report later = sample_report(2);
  for (ModelReport& model : later.models) {
    for (Perplexity& result : model.perplexity) {
      result.summary.perplexity *= 1.01;
      for (double& nll : result.summary.window_nll) nll += std::log(1.01);
    }
  }
  later.models[2].name = "new";
  const Comparison comparison = compare_reports({{"a", sample_report(2)}, {"b", later}});
  ASSERT_EQ(comparison.report.models.size(), 12u);
  EXPECT_EQ(comparison.reference[7], 1u);  // sparsegpt with sparsegpt
  EXPECT_EQ(comparison.reference[8], 0u);  // no such name: with the first model
  EXPECT_EQ(comparison.report.models[7].name, "sparsegpt (b)");
  EXPECT_EQ(comparison.report.models[8].name, "new");
  const Table table = comparison_table(comparison);
  EXPECT_EQ(column_of(table, "Δ alice29").cells[7].text, "+1.00 %");
  EXPECT_EQ(column_of(table, "against").cells[7].text, "sparsegpt");
  EXPECT_TRUE(notes_have(table, "Unchanged:"));
  // The reports put together are a report of their own.
  const Report back = report_from_json(report_json(comparison.report), "both.json");
  EXPECT_EQ(report_json(back), report_json(comparison.report));
}

TEST(ReportCompare, WhatWasMeasuredOtherwiseDoesNotCompare) {
  Report later = sample_report(2);
  later.threads = 1;
  later.models[0].perplexity[0].protocol = "llama.cpp";
  later.models[1].perplexity[0].text_digest = "another text";
  const Comparison comparison = compare_reports({{"a", sample_report(2)}, {"b", later}});
  const Table table = comparison_table(comparison);
  const Column& change = column_of(table, "Δ alice29");
  EXPECT_EQ(change.cells[6].text, "≠");
  EXPECT_EQ(change.cells[7].text, "≠");
  EXPECT_TRUE(change.cells[8].has_value && change.cells[8].order == 0);
  EXPECT_TRUE(notes_have(table, "≠ alice29 of dense (b) does not compare with that of dense: protocol llama.cpp against gptq."));
  EXPECT_TRUE(notes_have(table, "text another text against digest-of-al…"));
  EXPECT_TRUE(notes_have(table, "≠ tokens/s of dense (b) does not compare with that of dense: threads 1 against 2."));
  EXPECT_FALSE(notes_have(table, "≠ file"));
  later = sample_report(2);
  later.dtype = "float32";
  EXPECT_TRUE(notes_have(comparison_table(compare_reports({{"a", sample_report(2)}, {"b", later}})), "dtype float32 against bfloat16"));
}

TEST(ReportCompare, PairedErrorsAreOfTheDifferences) {
  Perplexity a, b;
  a.summary.window_nll = {1.0, 3.0, 2.0, 4.0};
  b.summary.window_nll = {1.1, 3.2, 2.1, 4.2};
  a.summary.perplexity = 10;
  b.summary.perplexity = 11;
  // Differences .1 .2 .1 .2: deviation sqrt(.01 / 3), over 2.
  EXPECT_NEAR(paired_relative_error(a, b), std::sqrt(0.01 / 3) / 2 * 1.1, 1e-12);
  b.summary.window_nll.pop_back();
  EXPECT_EQ(paired_relative_error(a, b), 0);
}

TEST(ReportCompare, TablesFitOneHundredColumnsInBlocks) {
  const std::string text = terminal_text(comparison_table(compare_reports({{"a", sample_report(2)}, {"b", sample_report(2)}})));
  std::size_t begin = 0, titles = 0;
  const std::size_t notes = text.find("Δ: change");
  ASSERT_NE(notes, std::string::npos);
  while (begin < notes) {
    const std::size_t end = text.find('\n', begin);
    const std::string line = text.substr(begin, end - begin);
    EXPECT_LE(std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }), 100) << line;
    titles += line.rfind("model ", 0) == 0;
    begin = end + 1;
  }
  EXPECT_GE(titles, 2u);
}

TEST(ReportLatex, IsBalancedAndEscaped) {
  Report report = sample_report(2);
  report.models[1].name = "50% & $x_1$ #{~^\\}\x1b";
  const std::string text = report_latex(report);
  EXPECT_NE(text.find("50\\% \\& \\$x\\_1\\$ \\#\\{\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\}?"), std::string::npos) << text;
  EXPECT_NE(text.find("24.31 {\\scriptsize $\\pm$ 0.49}"), std::string::npos) << text;
  EXPECT_NE(text.find("27.90$^{*}$"), std::string::npos) << text;
  for (const char* part : {"\\toprule", "\\midrule", "\\bottomrule", "\\begin{tabular}", "\\end{tabular}", "\\cmidrule(lr){3-4}"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
  // As many cells in each row as there are columns.
  const std::size_t columns = summary_table(report).columns.size();
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (!line.ends_with(" \\\\") || line.find("multicolumn") != std::string::npos) continue;
    std::size_t cells = 1;
    for (std::size_t i = 1; i < line.size(); ++i) cells += line[i] == '&' && line[i - 1] != '\\';
    EXPECT_EQ(cells, columns) << line;
  }
}

TEST(ReportCommand, SaysHowToMakeAModelAgain) {
  const Json method{{"name", "mixed"}, {"compute", "bfloat16"}, {"damping", 0.01}, {"group_size", 64}, {"levels", {2, 3, 4}},
                    {"target_bpw", 3.32}, {"channel_scaling", 0.5}, {"act_order", true}, {"seed", 7}, {"strange", true},
                    {"overrides", {{{"bits", 4}, {"layers", {0, 1}}}, {{"bits", 3}, {"kind", "down_proj"}}}}};
  const Json calibration{{"text_name", "c4"}, {"windows", 48}, {"seqlen", 512}, {"sampling", "in-order"}, {"documents", "lines"}};
  const std::string command = compress_command(method, calibration);
  for (const char* part : {"miq-compress SOURCE c4=C4_FILE -o MODEL --method mixed", "--dtype bfloat16", "--levels 2,3,4", "--target-bpw 3.32",
                           "--channel-scaling=0.5", "--act-order", "--seed 7", "--layer-bits 0-1=4", "--bits-of down_proj=3", "--nsamples 48",
                           "--documents lines", "# recorded, but no option of this version: strange true"})
    EXPECT_NE(command.find(part), std::string::npos) << part << " in " << command;
  EXPECT_EQ(compress_command(Json{{"name", "Q4_K"}}, Json::object()), "");  // another tool's
  EXPECT_EQ(shell_quoted("it's; rm -rf $HOME"), "'it'\\''s; rm -rf $HOME'");
  EXPECT_EQ(shell_quoted("--output"), "'--output'");
  const Report report = sample_report(1);
  const std::vector<std::string> lines = reproduce_commands(report, report.models[5]);
  const auto evaluation = std::find_if(lines.begin(), lines.end(), [](const std::string& line) { return line.rfind("run-eval", 0) == 0; });
  ASSERT_NE(evaluation, lines.end());
  EXPECT_EQ(evaluation->rfind("run-eval '<b>mi-50</b> & '\\''co'\\'''=MODEL --dataset alice29=ALICE29_FILE --protocol gptq --seqlen 1024", 0), 0u) << *evaluation;
  EXPECT_NE(evaluation->find(" --reference dense=REFERENCE"), std::string::npos) << *evaluation;
  EXPECT_NE(std::find(lines.begin(), lines.end(), "# REFERENCE: weights digest 00112233445566778899aabbccddeeff"), lines.end());
  ASSERT_TRUE(report.models[0].divergence.empty());  // the reference itself
  for (const std::string& line : reproduce_commands(report, report.models[0])) EXPECT_EQ(line.find("REFERENCE"), std::string::npos) << line;
}

}  // namespace
}  // namespace miq

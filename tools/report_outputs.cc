#include "miq/tools/report_outputs.h"

#include <filesystem>

namespace miq {
namespace {

constexpr std::pair<const char*, ReportFormat> kFormats[] = {{"terminal", ReportFormat::Terminal}, {"markdown", ReportFormat::Markdown},
                                                             {"latex", ReportFormat::Latex},       {"json", ReportFormat::JsonText},
                                                             {"html", ReportFormat::Html}};

ReportFormat format_of_ending(const std::string& path) {
  const std::string ending = std::filesystem::path(path).extension().string();
  if (ending == ".md" || ending == ".markdown") return ReportFormat::Markdown;
  if (ending == ".tex") return ReportFormat::Latex;
  if (ending == ".html" || ending == ".htm") return ReportFormat::Html;
  return ReportFormat::JsonText;
}

std::string json_text(const Report& report) { return report_json(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

void declare_output_options(CLI::App& app, OutputFlags& flags) {
  app.add_option("-o,--output", flags.output, "write the report here: Markdown (.md), LaTeX (.tex), a page (.html), else JSON");
  app.add_option("--markdown", flags.markdown, "write the report as Markdown here");
  app.add_option("--latex", flags.latex, "write the table for a paper here (booktabs)");
  app.add_option("--html", flags.html, "write the report as one self-contained page here");
  std::vector<std::string> names;
  for (const auto& [name, format] : kFormats) names.emplace_back(name);
  app.add_option("--format", flags.format, "what is printed in the end")->check(CLI::IsMember(names))->capture_default_str();
}

std::string render(const Report& report, ReportFormat format) {
  switch (format) {
    case ReportFormat::Terminal: return report_table(report, false);
    case ReportFormat::Markdown: return report_markdown(report);
    case ReportFormat::Latex: return report_latex(report);
    case ReportFormat::JsonText: return json_text(report);
    case ReportFormat::Html: break;
  }
  return report_html(report);
}

std::string render(const Comparison& comparison, ReportFormat format) {
  switch (format) {
    case ReportFormat::Terminal: return terminal_text(comparison_table(comparison));
    case ReportFormat::Markdown: return comparison_markdown(comparison);
    case ReportFormat::Latex: return comparison_latex(comparison);
    case ReportFormat::JsonText: return json_text(comparison.report);
    case ReportFormat::Html: break;
  }
  return comparison_html(comparison);
}

ReportOutputs::ReportOutputs(const OutputFlags& flags) : printed_(ReportFormat::Terminal) {
  for (const auto& [name, format] : kFormats) {
    if (flags.format == name) printed_ = format;
  }
  const auto add = [&](const std::string& path, ReportFormat format) {
    if (!path.empty()) files_.emplace_back(std::make_unique<AtomicFile>(path), format);
  };
  add(flags.output, format_of_ending(flags.output));
  add(flags.markdown, ReportFormat::Markdown);
  add(flags.latex, ReportFormat::Latex);
  add(flags.html, ReportFormat::Html);
}

void ReportOutputs::write(AtomicFile& file, const std::string& text) {
  file.write(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
  file.commit();
}

}  // namespace miq

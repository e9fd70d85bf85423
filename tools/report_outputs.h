// Where a report goes: files of --output, --markdown, --latex, --html, and what is printed in the end (--format).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "miq/evaluate/report_compare.h"
#include "miq/formats/atomic_file.h"
#include "miq/tools/program.h"

namespace miq {

enum class ReportFormat { Terminal, Markdown, Latex, JsonText, Html };

struct OutputFlags {
  std::string output, markdown, latex, html, format = "terminal";
};

void declare_output_options(CLI::App& app, OutputFlags& flags);

std::string render(const Report& report, ReportFormat format);
std::string render(const Comparison& comparison, ReportFormat format);

// The files are opened before the work starts, so that an unwritable one is found at once.
class ReportOutputs {
 public:
  explicit ReportOutputs(const OutputFlags& flags);
  // Writes the files, then prints. `What`: Report or Comparison.
  template <typename What>
  void finish(const What& what, Session& session) {
    for (auto& [file, format] : files_) write(*file, render(what, format));
    session.print(render(what, printed_));
  }

 private:
  static void write(AtomicFile& file, const std::string& text);
  std::vector<std::pair<std::unique_ptr<AtomicFile>, ReportFormat>> files_;
  ReportFormat printed_;
};

}  // namespace miq

// report.json, raw or as a merge patch ('P') of a report that has everything. What is read is written again and reads back as
// itself, and every output can be made of it.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/report_compare.h"
#include "tests/evaluate/sample_report.h"
#include "tests/fuzz/patched.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  static const miq::Json kBase = [] {
    miq::Report report = miq::test::sample_report(1);
    report.models.erase(report.models.begin(), report.models.begin() + 3);
    report.models.resize(1);
    miq::report_from_json(miq::report_json(report), "base");  // throws where the base itself is refused
    return miq::report_json(report);
  }();
  try {
    std::string text(reinterpret_cast<const char*>(data), size);
    if (text[0] == 'P') text = miq::test::patched(kBase, text.substr(1));
    // A patch replaces a list whole: "M" patches the one model.
    if (text[0] == 'M') {
      miq::Json json = kBase;
      json["models"][0].merge_patch(miq::parse_json(text.substr(1), "patch"));
      text = json.dump();
    }
    const miq::Report report = miq::report_from_json(miq::parse_json(text, "input"), "input");
    const miq::Json written = miq::report_json(report);
    if (miq::report_json(miq::report_from_json(written, "written")) != written) std::abort();
    miq::report_table(report, false);
    miq::report_markdown(report);
    miq::report_latex(report);
    miq::report_html(report);
    miq::comparison_markdown(miq::compare_reports({{"a", report}, {"b", report}}));
  } catch (const miq::Error&) {
  }
  return 0;
}

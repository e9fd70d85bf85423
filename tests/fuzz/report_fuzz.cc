// report.json, raw or as a merge patch ('P') of a small report that has everything, or of its one model ('M'). What is read is written again
// and reads back as itself, and every output can be made of it (these take ten times as long as reading: one input in eight, by its bytes).
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <string>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/report_compare.h"
#include "miq/formats/json.h"
#include "tests/evaluate/sample_report.h"

namespace {

using miq::Json;

Json small_report() {
  miq::Report report = miq::test::sample_report(1);
  report.models.erase(report.models.begin(), report.models.begin() + 3);
  report.models.resize(1);
  miq::ModelReport& model = report.models[0];
  model.perplexity.resize(1);
  model.perplexity[0].summary.window_nll.resize(2);
  model.divergence.resize(1);
  model.zeroshot.resize(1);
  model.parameters->matrices.resize(2);
  model.size->matrices.resize(2);
  model.structure->matrices.resize(2);
  Json json = miq::report_json(report);
  miq::report_from_json(json, "base");  // throws where the base itself is refused
  return json;
}

Json input_of(const std::string& text) {
  static const Json base = small_report();
  if (text[0] != 'P' && text[0] != 'M') return miq::parse_json(text, "input");
  Json json = base;
  // A patch replaces a list whole: "M" patches the one model.
  (text[0] == 'P' ? json : json["models"][0]).merge_patch(miq::parse_json(text.substr(1), "patch"));
  return json;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    const miq::Report report = miq::report_from_json(input_of(std::string(reinterpret_cast<const char*>(data), size)), "input");
    const Json written = miq::report_json(report);
    if (miq::report_json(miq::report_from_json(written, "written")) != written) std::abort();
    if (std::accumulate(data, data + size, 0u) % 8 != 0) return 0;
    miq::report_table(report, false);
    miq::report_markdown(report);
    miq::report_latex(report);
    miq::report_html(report);
    miq::comparison_markdown(miq::compare_reports({{"a", report}, {"b", report}}));
  } catch (const miq::Error&) {
  }
  return 0;
}

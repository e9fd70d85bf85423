// report_page FOLDER: writes pages of the made-up report, for the test that looks at them in a browser.
#include <cstdio>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/evaluate/report_compare.h"
#include "miq/formats/atomic_file.h"
#include "tests/evaluate/sample_report.h"

int main(int argc, char** argv) {
  using namespace miq;
  if (argc != 2) {
    std::fputs("usage: report_page FOLDER\n", stderr);
    return 2;
  }
  try {
    const std::filesystem::path folder(argv[1]);
    write_file_atomically(folder / "report.html", report_html(test::sample_report()));
    Report later = test::sample_report();
    later.models.resize(3);
    later.models[1].perplexity[0].protocol = "llama.cpp";
    for (double& nll : later.models[2].perplexity[0].summary.window_nll) nll += 0.01;
    later.models[2].perplexity[0].summary.perplexity *= 1.01;
    write_file_atomically(folder / "comparison.html", comparison_html(compare_reports({{"before", test::sample_report()}, {"after", later}})));
    // What one model gives without most metrics, with a name that has no place to break.
    Report bare = test::sample_report(80);
    bare.models.erase(bare.models.begin(), bare.models.begin() + 4);
    bare.models.resize(1);
    bare.models[0].name = std::string(120, 'x');
    bare.models[0].perplexity.clear();
    write_file_atomically(folder / "bare.html", report_html(bare));
  } catch (const Error& error) {
    std::fprintf(stderr, "report_page: %s\n", error.what());
    return 1;
  }
  return 0;
}

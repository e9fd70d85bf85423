// What a checkpoint takes under each encoding policy, tensor bytes only (a container adds its header and the small files):
//
//   sizes SOURCE [POLICY...]     policies: auto, lossless, dense; auto and lossless when none is named
//
// For each policy: encode_text()'s lines, seconds, all tensors against the source's bytes, and the linears of
// the decoder layers against two bytes a weight. What stands here is decoded and compared by encode_model.
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "miq/converters/encode.h"
#include "miq/converters/open_model.h"
#include "miq/converters/recognise.h"
#include "miq/model/architecture.h"

namespace {

using namespace miq;

void measure(const std::string& path, const std::string& policy, ThreadPool& pool) {
  Model model = open_model(path);
  const auto start = std::chrono::steady_clock::now();
  const Json report = encode_model(model, encode_policy(policy), pool);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  double stored = 0, weights = 0;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    const auto found = model.tensors.find(expected.name);
    if (!expected.linear || expected.layer < 0 || found == model.tensors.end()) continue;
    stored += static_cast<double>(found->second.stored_bytes());
    weights += static_cast<double>(found->second.elements());
  }
  const Json& summary = report.at("summary");
  std::printf("\n%s --encode %s  (%.2f s)\n%s", path.c_str(), policy.c_str(), seconds, encode_text(report).c_str());
  std::printf("all tensors %.2f %% of the source's bytes; decoder linears %.2f %% of two bytes a weight, %.3f bits a weight\n",
              100 * summary.at("bytes_after").get<double>() / summary.at("bytes_before").get<double>(), 100 * stored / (2 * weights),
              8 * stored / weights);
  std::map<std::string, int> reasons;
  for (const Json& tensor : report.at("tensors")) {
    if (tensor.contains("no_lattice")) ++reasons[tensor["no_lattice"].get<std::string>()];
  }
  for (const auto& [reason, tensors] : reasons) std::printf("  no lattice in %d: %s\n", tensors, reason.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: sizes SOURCE [POLICY...]\n");
    return 2;
  }
  try {
    ThreadPool pool;
    std::vector<std::string> policies(argv + 2, argv + argc);
    if (policies.empty()) policies = {"auto", "lossless"};
    std::printf("%s\n", recognise(open_model(argv[1]), pool, argv[1]).dump(1).c_str());
    for (const std::string& policy : policies) measure(argv[1], policy, pool);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

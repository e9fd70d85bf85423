// model_logits SOURCE IDS: logits [tokens, vocabulary] of the model at SOURCE for comma-separated token ids,
// computed in float32, as raw little-endian float32 on standard output. Warnings go to standard error.
#include <ATen/core/Tensor.h>

#include <cstdio>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "miq/converters/open_model.h"
#include "miq/model/forward.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: model_logits SOURCE IDS\n");
    return 2;
  }
  try {
    const miq::Model model = miq::open_model(argv[1]);
    for (const std::string& warning : model.warnings) std::fprintf(stderr, "%s\n", warning.c_str());
    std::vector<std::int32_t> ids;
    std::istringstream list(argv[2]);
    for (std::string id; std::getline(list, id, ',');) ids.push_back(std::stoi(id));
    const miq::ForwardPass pass(model, miq::ComputeType::Float32);
    at::Tensor hidden = pass.embed(ids);
    for (std::int64_t layer = 0; layer < pass.layers(); ++layer) hidden = pass.run_layer(pass.load_layer(layer), hidden);
    const at::Tensor logits = pass.logits(hidden).contiguous();
    std::fwrite(logits.const_data_ptr<float>(), sizeof(float), static_cast<std::size_t>(logits.numel()), stdout);
    return std::fflush(stdout) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

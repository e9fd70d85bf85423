// Perplexity protocols as plain loops, one window after another, from the protocols' descriptions.
#pragma once

#include <string>

#include "tests/reference/forward_reference.h"

namespace miq::reference {

inline double perplexity(const Forward& model, std::vector<std::int32_t> ids, std::int64_t seqlen, const std::string& protocol,
                         std::int32_t bos, std::int32_t padding) {
  const auto length = static_cast<std::size_t>(seqlen);
  double total = 0, counted = 0, sum_of_means = 0, windows = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += length) {
    std::vector<std::int32_t> window(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                                     ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), begin + length)));
    if (window.size() < length && (protocol != "blocks-128" || window.size() < 2)) continue;
    if (protocol == "exllamav3" && begin + length >= ids.size()) continue;
    if (protocol == "llama.cpp") window[0] = bos;
    Matrix x = model.embed(window);
    for (std::int64_t layer = 0; layer < static_cast<std::int64_t>(model.config.layers.size()); ++layer) x = model.run_layer(layer, x);
    const std::vector<double> losses = model.losses(x, window);
    double sum = 0, count = 0;
    for (std::size_t p = protocol == "llama.cpp" ? length / 2 : 0; p + 1 < window.size(); ++p) {
      if (protocol == "slicegpt" && window[p + 1] == padding) continue;
      sum += losses[p];
      ++count;
    }
    total += sum;
    counted += count;
    sum_of_means += sum / count;
    ++windows;
  }
  return std::exp(protocol == "llama.cpp" || protocol == "exllamav3" ? total / counted : sum_of_means / windows);
}

}  // namespace miq::reference

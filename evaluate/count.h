// How many parameters a model has, part by part, and how many of them are zero.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "miq/base/thread_pool.h"
#include "miq/model/architecture.h"
#include "miq/model/model.h"

namespace miq {

// One decoder linear.
struct MatrixCount {
  std::int64_t layer = 0;
  std::string name;  // "q_proj"
  std::int64_t rows = 0, cols = 0;
  std::int64_t weights = 0, zeros = 0;
};

struct ParameterCount {
  std::int64_t total = 0, nonzero = 0;  // tied tensors once
  std::vector<std::pair<Part, std::int64_t>> by_part;  // in the order of Part; adds up to total
  std::int64_t decoder_linears = 0, decoder_linear_zeros = 0;  // weights of the layers' linears
  std::vector<MatrixCount> matrices;                           // every decoder linear, in forward order

  // Share of zeros in the decoder linears, as the pruning papers count it.
  double sparsity() const {
    return decoder_linears == 0 ? 0 : static_cast<double>(decoder_linear_zeros) / static_cast<double>(decoder_linears);
  }
};

// Throws Error when a tensor is not accounted for by the architecture's table.
ParameterCount count_parameters(const Model& model, ThreadPool& pool);

}  // namespace miq

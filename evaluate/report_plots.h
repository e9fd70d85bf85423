// The drawings of the HTML report, as inline SVG. Each returns an empty string where there is nothing to show.
#pragma once

#include <string>

#include "miq/evaluate/report.h"

namespace miq {

// Perplexity on `text` against bytes on disk, one dot a model, with the Pareto front: the models that no
// other beats in both. Needs two models with both figures.
std::string perplexity_plot(const Report& report, const std::string& text);

// Loss of each window of `text` above that of the first model, one strip a model, in nats a token. Left out are models that were not
// measured on the same windows. Needs two models and two windows.
std::string window_losses(const Report& report, const std::string& text);

// What a heat map shows of each matrix: layers across, kinds of matrices down.
enum class MatrixValue {
  Bits,         // code bits of a kept weight
  Error,        // share of the outputs' energy that was lost
  Information,  // mutual information within groups over that between groups
};
// The range over all models that heat_map() draws, so that models compare; false when it draws none.
bool heat_range(const Report& report, MatrixValue value, double& low, double& high);
// `low` and `high` bound the colour scale. Bits: empty for a model whose matrices all have the same.
std::string heat_map(const ModelReport& model, MatrixValue value, double low, double high);

// Share of zeros of each layer's linears. Empty for a model that was not pruned.
std::string sparsity_plot(const ModelReport& model);

// For each kind of matrix: into how many groups its input channels were put, how large they are, and the widths of the channels.
std::string groups_plot(const ModelReport& model);

// Mutual information between groups of channels, groups by groups, of inputs of the first, middle and last layer.
std::string information_blocks(const ModelReport& model);

}  // namespace miq

// The drawings of the HTML report, as inline SVG. Each returns an empty string where there is nothing to show.
#pragma once

#include <string>

#include "miq/evaluate/report.h"

namespace miq {

// Perplexity on `text` against bytes on disk, one dot a model, with the Pareto front: the models that no
// other beats in both. Needs two models with both figures.
std::string perplexity_plot(const Report& report, const std::string& text);

// Code bits of every matrix: layers across, kinds of matrices down. Empty for a model whose matrices all have
// the same bits. `low` and `high` bound the colour scale, so that models compare.
std::string bits_heat_map(const ModelReport& model, double low, double high);
// The range over all models that bits_heat_map() draws; false when it draws none.
bool bits_range(const Report& report, double& low, double& high);

// Share of zeros of each layer's linears. Empty for a model that was not pruned.
std::string sparsity_plot(const ModelReport& model);

}  // namespace miq

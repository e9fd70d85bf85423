// A plan as fields of a journal's record (formats/spec/journal.md).
#pragma once

#include <vector>

#include "miq/compress/plan.h"
#include "miq/compress/plan_costs.h"
#include "miq/formats/record_bytes.h"
#include "miq/model/config.h"

namespace miq {

void write_plan(RecordWriter& writer, const std::vector<LayerPlan>& plan);
// Throws FormatError when the plan does not fit the config and the recipe: other layers, matrices or sizes, an order that is no permutation.
std::vector<LayerPlan> read_plan(RecordReader& reader, const Config& config, const Recipe& recipe);

// What the two walks of a plan leave of one layer.
void write_places(RecordWriter& writer, const LayerPlan& layer);
LayerPlan read_places(RecordReader& reader, const Config& config, const Recipe& recipe, std::int64_t layer);
void write_site(RecordWriter& writer, const SitePlan& site);
SitePlan read_site(RecordReader& reader, std::size_t width, const Recipe& recipe);
void write_matrix_costs(RecordWriter& writer, const MatrixCosts& matrix);
MatrixCosts read_matrix_costs(RecordReader& reader, const LayerTensor& tensor, const Recipe& recipe);
void write_costs(RecordWriter& writer, const LayerCosts& costs);
LayerCosts read_costs(RecordReader& reader, const Config& config, const Recipe& recipe, std::int64_t layer);

}  // namespace miq

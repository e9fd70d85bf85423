// Structured bindings name every field of every struct: a field that is added to a plan does not compile here until
// it is written and read as well. What is read is checked as far as the solver indexes with it.
#include "miq/compress/plan_record.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "miq/model/architecture.h"

namespace miq {

void write_site(RecordWriter& writer, const SitePlan& site) {
  const auto& [channels, energy, inverse_diagonal, information, information_within, information_blocks] = site;
  const auto& [order, group_of, starts] = channels;
  const auto& [mean, largest, within, between] = information;
  writer.list(order);
  writer.list(group_of);
  writer.list(starts);
  writer.list(energy);
  writer.list(inverse_diagonal);
  writer.list(information_within);
  writer.list(information_blocks);
  for (double value : {mean, largest, within, between}) writer.f64(value);
}

namespace {
void check_channels(const RecordReader& reader, const ChannelGroups& channels, std::size_t width) {
  const auto& [order, group_of, starts] = channels;
  if (order.size() != width || group_of.size() != width) reader.refuse("a plan has another number of channels than the model");
  std::vector<std::uint8_t> seen(width);
  for (std::int64_t channel : order) {
    if (channel < 0 || channel >= static_cast<std::int64_t>(width) || seen[static_cast<std::size_t>(channel)]++) {
      reader.refuse("a plan's order of channels is no permutation");
    }
  }
  bool good = starts.size() >= 2 && starts.front() == 0 && starts.back() == static_cast<std::int64_t>(width);
  for (std::size_t g = 0; good && g + 1 < starts.size(); ++g) {
    good = starts[g] < starts[g + 1] && starts[g + 1] <= static_cast<std::int64_t>(width);
    for (std::int64_t k = starts[g]; good && k < starts[g + 1]; ++k) good = group_of[static_cast<std::size_t>(k)] == static_cast<std::int32_t>(g);
  }
  if (!good) reader.refuse("a plan's groups contradict each other");
}

}  // namespace

SitePlan read_site(RecordReader& reader, std::size_t width, const Recipe& recipe) {
  SitePlan site;
  auto& [channels, energy, inverse_diagonal, information, information_within, information_blocks] = site;
  auto& [order, group_of, starts] = channels;
  auto& [mean, largest, within, between] = information;
  order = reader.list<std::int64_t>();
  group_of = reader.list<std::int32_t>();
  starts = reader.list<std::int64_t>();
  energy = reader.list<double>();
  inverse_diagonal = reader.list<double>();
  information_within = reader.list<double>();
  information_blocks = reader.list<float>();
  for (double* value : {&mean, &largest, &within, &between}) *value = reader.f64();
  check_channels(reader, channels, width);
  if (energy.size() != width || inverse_diagonal.size() != (recipe.sparsity > 0 ? width : 0)) reader.refuse("a plan has energies for another number of channels");
  if ((!information_within.empty() || recipe.allocator == Allocator::Redundancy) && information_within.size() != static_cast<std::size_t>(channels.groups())) reader.refuse("a plan has another number of groups");
  const auto blocks = static_cast<std::size_t>(std::min(channels.groups(), kInformationBlocksKept));
  if (!information_blocks.empty() && (!recipe.needs_information() || information_blocks.size() != blocks * blocks)) {
    reader.refuse("a plan has information between another number of groups");
  }
  for (float value : information_blocks) {
    if (!std::isfinite(value)) reader.refuse("a plan has information that is not finite");
  }
  return site;
}

namespace {

void write_matrix(RecordWriter& writer, const MatrixPlan& matrix) {
  const auto& [bits_of_group, row_weights, pruned_of_group, least_importance, most_importance] = matrix;
  writer.list(bits_of_group);
  writer.list(row_weights);
  writer.list(pruned_of_group);
  for (double value : {least_importance, most_importance}) writer.f64(value);
}

MatrixPlan read_matrix(RecordReader& reader, const Shape& shape, const ChannelGroups& channels, const Recipe& recipe) {
  MatrixPlan matrix;
  auto& [bits_of_group, row_weights, pruned_of_group, least_importance, most_importance] = matrix;
  bits_of_group = reader.list<std::uint8_t>();
  row_weights = reader.list<float>();
  pruned_of_group = reader.list<std::int64_t>();
  for (double* value : {&least_importance, &most_importance}) *value = reader.f64();
  const auto groups = static_cast<std::size_t>(channels.groups());
  if (row_weights.size() != static_cast<std::size_t>(shape[0]) || bits_of_group.size() != (recipe.quantize ? groups : 0) ||
      pruned_of_group.size() != (recipe.sparsity > 0 ? groups : 0)) {
    reader.refuse("a plan has another matrix's size");
  }
  for (std::uint8_t bits : bits_of_group) {
    if (bits < 2 || bits > 8 || bits == 5 || bits == 7) reader.refuse("a plan has a width of " + std::to_string(bits) + " bits");
  }
  for (std::size_t g = 0; g < pruned_of_group.size(); ++g) {
    const std::int64_t weights = shape[0] * (channels.starts[g + 1] - channels.starts[g]);
    if (pruned_of_group[g] < 0 || pruned_of_group[g] > weights) reader.refuse("a plan has more zeros than a group has weights");
  }
  return matrix;
}

using Linears = std::map<std::string, LayerTensor, std::less<>>;
Linears linears_of(const Config& config, std::int64_t layer) {
  Linears linears;
  for (LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear()) linears.emplace(tensor.name, std::move(tensor));
  }
  return linears;
}

// A list with one entry for each linear of the layer, by name.
template <typename Entry, typename Read>
std::map<std::string, Entry, std::less<>> read_matrices(RecordReader& reader, const Linears& linears, const Read& read) {
  std::map<std::string, Entry, std::less<>> matrices;
  if (reader.u64() != linears.size()) reader.refuse("a plan has other matrices than the model");
  for (std::size_t m = 0; m < linears.size(); ++m) {
    std::string name = reader.text();
    const auto found = linears.find(name);
    if (found == linears.end() || matrices.contains(name)) reader.refuse("a plan has a matrix '" + name.substr(0, 100) + "' that the model has not");
    matrices.emplace(std::move(name), read(found->second));
  }
  return matrices;
}

}  // namespace

MatrixCosts read_matrix_costs(RecordReader& reader, const LayerTensor& tensor, const Recipe& recipe) {
  MatrixCosts matrix;
  auto& [sensitivity, column_errors, scores, wide_scales] = matrix;
  sensitivity = reader.list<double>();
  column_errors = reader.list<double>();
  const auto rows = static_cast<std::size_t>(tensor.shape[0]), cols = static_cast<std::size_t>(tensor.shape[1]);
  if (sensitivity.size() != rows || column_errors.size() != (recipe.quantize ? cols * recipe.levels.size() : 0)) reader.refuse("a plan has another matrix's costs");
  std::int64_t weights = 0;
  for (std::uint64_t blocks = reader.count(24); blocks > 0; --blocks) {
    auto& [its_weights, first_bin, counts] = scores.emplace_back();
    its_weights = reader.get<std::int64_t>();
    first_bin = reader.get<std::int64_t>();
    counts = reader.list<std::uint32_t>();
    if (its_weights < 0 || its_weights > tensor.shape[0] * tensor.shape[1] - weights || first_bin < 0 || first_bin > kScoreBins ||
        counts.size() > static_cast<std::size_t>(kScoreBins - first_bin)) {
      reader.refuse("a plan has impossible counts of scores");
    }
    weights += its_weights;
  }
  wide_scales = reader.u8();
  return matrix;
}

void write_matrix_costs(RecordWriter& writer, const MatrixCosts& matrix) {
  const auto& [sensitivity, column_errors, scores, wide_scales] = matrix;
  writer.list(sensitivity);
  writer.list(column_errors);
  writer.u64(scores.size());
  for (const auto& [weights, first_bin, counts] : scores) {
    writer.put(weights);
    writer.put(first_bin);
    writer.list(counts);
  }
  writer.u8(wide_scales);
}

void write_places(RecordWriter& writer, const LayerPlan& layer) {
  writer.u64(layer.places.size());
  for (const auto& [place, site] : layer.places) {
    writer.u64(static_cast<std::uint64_t>(place.site));
    writer.u64(static_cast<std::uint64_t>(place.expert + 1));
    write_site(writer, site);
  }
}

LayerPlan read_places(RecordReader& reader, const Config& config, const Recipe& recipe, std::int64_t layer) {
  std::map<InputPlace, std::size_t> widths;
  for (const auto& [name, tensor] : linears_of(config, layer)) widths[tensor.place()] = static_cast<std::size_t>(tensor.shape[1]);
  LayerPlan plan;
  if (reader.u64() != widths.size()) reader.refuse("a plan has other inputs than the model");
  for (const auto& [place, width] : widths) {
    if (reader.u64() != static_cast<std::uint64_t>(place.site) || reader.u64() != static_cast<std::uint64_t>(place.expert + 1)) {
      reader.refuse("a plan has other inputs than the model");
    }
    plan.places[place] = read_site(reader, width, recipe);
  }
  return plan;
}

void write_costs(RecordWriter& writer, const LayerCosts& costs) {
  writer.u64(costs.size());
  for (const auto& [name, matrix] : costs) {
    writer.text(name);
    write_matrix_costs(writer, matrix);
  }
}

LayerCosts read_costs(RecordReader& reader, const Config& config, const Recipe& recipe, std::int64_t layer) {
  return read_matrices<MatrixCosts>(reader, linears_of(config, layer), [&](const LayerTensor& tensor) { return read_matrix_costs(reader, tensor, recipe); });
}

void write_plan(RecordWriter& writer, const std::vector<LayerPlan>& plan) {
  writer.u64(plan.size());
  for (const LayerPlan& layer : plan) {
    const auto& [places, matrices] = layer;
    write_places(writer, layer);
    writer.u64(matrices.size());
    for (const auto& [name, matrix] : matrices) {
      writer.text(name);
      write_matrix(writer, matrix);
    }
  }
}

std::vector<LayerPlan> read_plan(RecordReader& reader, const Config& config, const Recipe& recipe) {
  if (reader.u64() != config.layers.size()) reader.refuse("a plan has another number of layers than the model");
  std::vector<LayerPlan> plan;
  for (std::int64_t l = 0; l < static_cast<std::int64_t>(config.layers.size()); ++l) {
    LayerPlan layer = read_places(reader, config, recipe, l);
    layer.matrices = read_matrices<MatrixPlan>(reader, linears_of(config, l), [&](const LayerTensor& tensor) {
      return read_matrix(reader, tensor.shape, layer.places.at(tensor.place()).channels, recipe);
    });
    plan.push_back(std::move(layer));
  }
  return plan;
}

}  // namespace miq

// Counts come from the stored tensor, not from what was asked for: a report cannot claim bits that the
// container does not hold.
#include "miq/compress/report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>

#include "miq/compress/text.h"
#include "miq/model/matrix_kind.h"

namespace miq {
namespace {

double ratio(std::uint64_t part, std::uint64_t whole) { return whole ? static_cast<double>(part) / static_cast<double>(whole) : 0; }

std::string histogram_text(const std::map<int, std::uint64_t>& channels) {
  std::string text;
  for (const auto& [bits, count] : channels) text += format("%s%d:%llu", text.empty() ? "" : " ", bits, static_cast<unsigned long long>(count));
  return text;
}

Json histogram_json(const std::map<int, std::uint64_t>& channels) {
  Json json = Json::object();
  for (const auto& [bits, count] : channels) json[std::to_string(bits)] = count;
  return json;
}

double three_digits(float value) {  // whatever the locale
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 3).ptr;
  double rounded = 0;
  std::from_chars(text, end, rounded);
  return rounded;
}

// A square matrix to three digits: it is looked at, and each container holds one for every input of every layer.
Json rows_json(std::span<const float> values) {
  const auto side = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(values.size()))));
  Json rows = Json::array();
  for (std::size_t i = 0; i < side; ++i) {
    Json& row = rows.emplace_back(Json::array());
    for (std::size_t j = 0; j < side; ++j) row.push_back(three_digits(values[i * side + j]));
  }
  return rows;
}

}  // namespace

Json CompressionReport::bits_json(const Bits& bits) {
  Json json{{"weights", bits.weights},
            {"sparsity", ratio(bits.zeros, bits.weights)},
            {"effective_bits", ratio(bits.stored, bits.weights)}};
  if (bits.codes) {
    json["code_bits"] = ratio(bits.codes, bits.kept);
    json["channels_by_bits"] = histogram_json(bits.channels);
  }
  return json;
}

std::string CompressionReport::add(std::int64_t layer, std::string_view rule, const std::string& name, const MatrixResult& result,
                                   const Tensor& stored, const SitePlan* site, double seconds) {
  Bits bits;
  bits.weights = static_cast<std::uint64_t>(stored.elements());
  bits.stored = stored.stored_bytes() * 8;
  bits.zeros = static_cast<std::uint64_t>(count_zeros(stored, name));
  bits.kept = bits.weights - bits.zeros;
  if (stored.encoding == Encoding::Packed && result.packed) {
    const PackedBits packed = packed_bits(stored, name);
    bits.stored = packed.total();
    bits.kept = packed.kept;
    bits.zeros = packed.weights - packed.kept;  // pruned ones; a kept weight may also round to zero
    bits.codes = packed.codes;
    for (std::uint16_t group : result.packed->group_of_column) ++bits.channels[result.packed->bits_of_group[group]];
    quantized_channels_ += result.packed->cols;
  }
  for (Bits* sum : {&layers_[layer], &kinds_[matrix_kind(short_linear_name(rule))], &all_}) {
    sum->weights += bits.weights;
    sum->kept += bits.kept;
    sum->codes += bits.codes;
    sum->stored += bits.stored;
    sum->zeros += bits.zeros;
    for (const auto& [width, count] : bits.channels) sum->channels[width] += count;
  }

  Json entry = bits_json(bits);
  entry["name"] = name;
  entry["error"] = result.error;
  std::string line = format("layer %lld %-9s %7.2f s  error %.5f", static_cast<long long>(layer), std::string(short_linear_name(rule)).c_str(),
                            seconds, result.error);
  if (result.refined > 0) {
    entry["refined"] = result.refined;
    line += format("  refined by %.1f %%", 100 * result.refined);
  }
  if (bits.zeros) line += format("  zeros %.2f %%", 100 * ratio(bits.zeros, bits.weights));
  if (bits.codes) {
    line += format("  bits %s  average %.3f  effective %.3f", histogram_text(bits.channels).c_str(), ratio(bits.codes, bits.kept),
                   ratio(bits.stored, bits.weights));
  }
  if (site && site->channels.groups() > 0) {
    std::int64_t least = site->channels.channels(), most = 0;
    for (std::size_t g = 0; g + 1 < site->channels.starts.size(); ++g) {
      const std::int64_t size = site->channels.starts[g + 1] - site->channels.starts[g];
      least = std::min(least, size);
      most = std::max(most, size);
    }
    entry["groups"] = {{"count", site->channels.groups()}, {"smallest", least}, {"largest", most}};
    line += format("  groups %lld of %lld-%lld", static_cast<long long>(site->channels.groups()), static_cast<long long>(least),
                   static_cast<long long>(most));
    if (recipe_.needs_information()) {
      const MutualInformationSummary& mi = site->information;
      entry["mutual_information"] = {{"mean", mi.mean}, {"largest", mi.largest}, {"within", mi.within}, {"between", mi.between}};
      if (!site->information_blocks.empty() && with_blocks_.insert(site).second)
        entry["mutual_information"]["blocks"] = rows_json(site->information_blocks);
      line += format("  MI mean %.4f max %.3f within %.4f between %.4f", mi.mean, mi.largest, mi.within, mi.between);
    }
  }
  if (result.importance) {
    const auto [lowest, highest] = *result.importance;
    entry["importance"] = {lowest, highest};
    auto [range, fresh] = importance_.try_emplace(layer, *result.importance);
    if (!fresh) range->second = {std::min(range->second[0], lowest), std::max(range->second[1], highest)};
  }
  if (result.dead_channels) {
    entry["dead_channels"] = result.dead_channels;
    line += format("  %lld channels never used", static_cast<long long>(result.dead_channels));
  }
  if (result.damping > recipe_.damping * 1.001) {
    entry["damping"] = result.damping;
    line += format("  (needed damping %g)", result.damping);
  }
  const bool unseen = result.expert_tokens && *result.expert_tokens == 0;
  if (result.expert_tokens) {
    entry["tokens"] = *result.expert_tokens;
    line += format("  %lld tokens", static_cast<long long>(*result.expert_tokens));
  }
  if (result.fallback) {
    entry["fallback"] = "nearest";
    line += unseen ? "  (no token reached this expert: rounded to nearest)" : "  (no factorisation: rounded to nearest)";
    ++fallbacks_;
    unseen_ += unseen;
  }
  matrices_.push_back(std::move(entry));
  return line;
}

Json CompressionReport::statistics(const Model& compressed) const {
  Json layers = Json::array();
  for (const auto& [layer, bits] : layers_) {
    Json entry = bits_json(bits);
    entry["layer"] = layer;
    if (const auto range = importance_.find(layer); range != importance_.end()) entry["importance"] = range->second;
    layers.push_back(std::move(entry));
  }
  Json kinds = Json::array();
  for (const auto& [kind, bits] : kinds_) {
    Json entry = bits_json(bits);
    entry["kind"] = kind;
    kinds.push_back(std::move(entry));
  }
  std::uint64_t weights = 0, bytes = 0;
  for (const auto& [name, tensor] : compressed.tensors) {
    weights += static_cast<std::uint64_t>(tensor.elements());
    bytes += tensor.stored_bytes();
  }
  Json json{{"matrices", matrices_}, {"layers", std::move(layers)}, {"kinds", std::move(kinds)}, {"compressed", bits_json(all_)}};
  json["model"] = {{"weights", weights}, {"bits_per_weight", ratio(bytes * 8, weights)}};
  if (fallbacks_) json["fallbacks"] = fallbacks_;
  return json;
}

std::string CompressionReport::summary(const Model& compressed) const {
  const Json json = statistics(compressed);
  std::string text;
  const auto figures = [](const Bits& bits) {
    std::string line;
    if (bits.codes) line += format("  code bits %.3f", ratio(bits.codes, bits.kept));
    line += format("  effective bits %.3f", ratio(bits.stored, bits.weights));
    if (bits.zeros) line += format("  zeros %.2f %%", 100 * ratio(bits.zeros, bits.weights));
    if (bits.channels.size() > 1) line += "  channels by bits " + histogram_text(bits.channels);
    return line;
  };
  for (const auto& [layer, bits] : layers_) {
    text += format("layer %3lld", static_cast<long long>(layer)) + figures(bits);
    if (const auto range = importance_.find(layer); range != importance_.end()) {
      text += format("  importance %.3f to %.3f", range->second[0], range->second[1]);
    }
    text += "\n";
  }
  for (const auto& [kind, bits] : kinds_) text += format("%-9s", kind.c_str()) + figures(bits) + "\n";
  text += format("compressed matrices: %llu weights", static_cast<unsigned long long>(all_.weights));
  if (all_.codes) {
    text += format(", %lld channels quantized (%s), %.4f code bits a kept weight", static_cast<long long>(quantized_channels_),
                   histogram_text(all_.channels).c_str(), ratio(all_.codes, all_.kept));
  }
  if (all_.zeros) text += format(", %.3f %% zeros", 100 * ratio(all_.zeros, all_.weights));
  text += format(", %.4f effective bits a weight as stored\n", ratio(all_.stored, all_.weights));
  text += format("whole model: %.4f bits a weight, embedding and head included", json["model"]["bits_per_weight"].get<double>());
  return text;
}

}  // namespace miq

// Figures of every linear (weight_statistics.h), then a few rules over all of them together: one matrix may look
// like anything by chance, but not all matrices of a model.
#include "miq/converters/recognise.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "miq/base/error.h"
#include "miq/converters/weight_statistics.h"
#include "miq/formats/mapped_file.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

constexpr double kFewZeros = 0.005;  // trained weights in float16 hold a few
constexpr std::uintmax_t kLargestHint = 1 << 20;

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

// All matrices together.
struct Evidence {
  std::vector<WeightStatistics> matrices;
  double weights = 0, sparsity = 0, pruned = 0;
  std::int64_t with_lattice = 0;

  explicit Evidence(std::vector<WeightStatistics> all) : matrices(std::move(all)) {
    double zeros = 0, gone = 0;
    for (const WeightStatistics& s : matrices) {
      const double size = static_cast<double>(s.rows * s.cols);
      weights += size;
      zeros += static_cast<double>(s.zeros);
      gone += s.pruned * size;
      with_lattice += s.lattice;
    }
    if (weights == 0) return;
    sparsity = zeros / weights;
    pruned = gone / weights;
  }
  bool quantized() const { return with_lattice * 2 > static_cast<std::int64_t>(matrices.size()); }
  // More zeros than rounding leaves; the estimate of those is a rough one.
  bool sparse() const { return sparsity > kFewZeros && (with_lattice == 0 || pruned > std::max(0.02, sparsity / 5)); }
};

struct Pattern {
  std::int64_t n = 0, m = 0;
};

// Runs of m that would have fewer than `zeros` zeros, if zeros fell anywhere.
double runs_by_chance(const Evidence& evidence, std::size_t i, std::int64_t zeros) {
  const auto m = static_cast<double>(WeightStatistics::kRuns[i]);
  double fewer = 0, runs = 0;
  for (std::int64_t k = 0; k < zeros; ++k) {
    const auto d = static_cast<double>(k);
    fewer += std::exp(std::lgamma(m + 1) - std::lgamma(d + 1) - std::lgamma(m - d + 1)) * std::pow(evidence.sparsity, d) *
             std::pow(1 - evidence.sparsity, m - d);
  }
  for (const WeightStatistics& s : evidence.matrices) runs += static_cast<double>(s.runs[i]);
  return fewer * runs;
}

std::optional<Pattern> n_of_m(const Evidence& evidence) {
  for (std::size_t i = 0; i < WeightStatistics::kRuns.size(); ++i) {
    const std::int64_t m = WeightStatistics::kRuns[i];
    std::int64_t zeros = m;
    bool any = false;
    for (const WeightStatistics& s : evidence.matrices) {
      if (s.runs[i] == 0) continue;
      any = true;
      zeros = std::min(zeros, s.run_zeros_min[i]);
    }
    if (any && zeros > 0 && zeros < m && runs_by_chance(evidence, i, zeros) > 20) return Pattern{m - zeros, m};
  }
  return std::nullopt;
}

bool equal_rows(const Evidence& evidence) {
  return std::ranges::all_of(evidence.matrices,
                             [](const WeightStatistics& s) { return s.rows > 1 && s.zeros > 0 && s.row_zeros_min == s.row_zeros_max; });
}

// How far blocks of 128 columns differ, in standard deviations of zeros that fall anywhere; nothing where no
// matrix has two blocks.
std::optional<double> block_spread(const Evidence& evidence) {
  double spread = 0, chance = 0;
  for (const WeightStatistics& s : evidence.matrices) {
    if (s.blocks < 2) continue;
    const double weights = static_cast<double>(s.rows * WeightStatistics::kBlock);
    const double share = static_cast<double>(s.zeros) / static_cast<double>(s.rows * s.cols);
    spread += static_cast<double>(s.block_zeros_max - s.block_zeros_min);
    chance += std::sqrt(weights * share * (1 - share));
  }
  if (chance == 0) return std::nullopt;
  return spread / chance;
}

double median_edge(const Evidence& evidence) {
  std::vector<double> edges;
  for (const WeightStatistics& s : evidence.matrices) edges.push_back(s.edge);
  std::ranges::nth_element(edges, edges.begin() + static_cast<std::ptrdiff_t>(edges.size() / 2));
  return edges[edges.size() / 2];
}

// Who left the zeros where they are.
std::string pruning_method(const Evidence& evidence, Json& result) {
  Json& texts = result["evidence"];
  if (const auto pattern = n_of_m(evidence)) {
    result["n_m"] = {{"n", pattern->n}, {"m", pattern->m}};
    texts.push_back("no " + std::to_string(pattern->m) + " consecutive input channels keep more than " + std::to_string(pattern->n) +
                    " weights");
    return "n:m";
  }
  if (equal_rows(evidence)) {
    texts.push_back("every row of a matrix has the same number of zeros: weights were compared within their output row, as Wanda does");
    return "wanda";
  }
  const double edge = median_edge(evidence);
  if (evidence.with_lattice == 0 && edge > 0.9) {
    texts.push_back("the smallest weights that are left are " + number(edge) +
                    " of the 1 % quantile of those left: one threshold on the magnitude");
    return "magnitude";
  }
  const auto spread = block_spread(evidence);
  if (spread && *spread < 0.5) {
    texts.push_back("blocks of 128 input channels have the same share of zeros, " + number(*spread) +
                    " times what chance would make them differ: SparseGPT's blocks");
    return "sparsegpt";
  }
  if (!spread && evidence.with_lattice == 0) texts.push_back("no matrix is wide enough to tell SparseGPT's blocks from others");
  return "sparse";
}

void describe_quantization(const Evidence& evidence, Json& result) {
  std::set<std::string> bits, sharing;
  for (const WeightStatistics& s : evidence.matrices) {
    if (!s.lattice) continue;
    bits.insert(s.bits);
    sharing.insert(s.sharing);
  }
  const auto joined = [](const std::set<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
    return text;
  };
  result["quantization"] = {
      {"matrices", evidence.with_lattice}, {"of", evidence.matrices.size()}, {"bits", joined(bits)}, {"sharing", joined(sharing)}};
  const bool whole = std::ranges::all_of(evidence.matrices, [](const WeightStatistics& s) { return s.lattice_rows == s.rows; });
  result["evidence"].push_back(std::string(whole ? "" : "as far as the first rows show, ") + "the weights of " +
                               std::to_string(evidence.with_lattice) + " of " + std::to_string(evidence.matrices.size()) +
                               " matrices lie on lattices of " + joined(bits) + " bits, to the last bit");
}

// Weights decoded from blocks of codes that have an offset beside their scale lie on no lattice through zero, but
// each block still has few values.
std::int64_t block_values(const Evidence& evidence) {
  std::int64_t most = 0;
  for (const WeightStatistics& s : evidence.matrices) {
    if (s.lattice || s.palette_max == 0 || s.palette_max > WeightStatistics::kPalette / 2 || s.palette_filled < 0.75) return 0;
    most = std::max(most, s.palette_max);
  }
  return most;
}

void describe_blocks(std::int64_t values, Json& result) {
  const std::string run = std::to_string(WeightStatistics::kPalette);
  result["blocks"] = {{"columns", WeightStatistics::kPalette}, {"values", values}};
  result["evidence"].push_back(
      "no run of " + run + " input channels holds more than " + std::to_string(values) +
      " different values, which lie on no lattice through zero: decoded from blocks with a scale and an offset, such as GGUF's "
      "Q4_1. Packed codes have no offset, so such weights are not stored as codes");
  result["guess"] = result["guess"].get<std::string>() + "; decoded from blocks of " + run + " with at most " + std::to_string(values) +
                    " values each, such as GGUF's Q4_1";
}

std::string guess_text(const Json& result, const Evidence& evidence) {
  static const std::map<std::string, std::string> kNames{{"dense", "dense: not pruned, and on no lattice"},
                                                         {"sparsegpt", "SparseGPT-like"},
                                                         {"wanda", "Wanda-like"},
                                                         {"magnitude", "magnitude pruning"},
                                                         {"n:m", "semi-structured pruning"},
                                                         {"sparse", "unstructured pruning of a kind that was not recognised"},
                                                         {"quantized", "quantized without pruning"}};
  std::string text = kNames.at(result.at("method").get<std::string>());
  if (result.contains("n_m")) text += " " + result["n_m"]["n"].dump() + ":" + result["n_m"]["m"].dump();
  if (result.at("method") != "dense") text += ": " + percent(evidence.sparsity) + " zeros";
  if (!result.contains("quantization")) return text;
  if (evidence.sparse()) text += " (about " + percent(evidence.pruned) + " pruned, the others rounded to zero)";
  const Json& lattice = result["quantization"];
  const std::string sharing = lattice["sharing"];
  text += "; " + lattice["bits"].get<std::string>() + " bits, ";
  text += sharing == "row" ? "one lattice per row" : sharing == "mixed" ? "mixed per input channel" : "lattices of " + sharing;
  if (evidence.with_lattice < static_cast<std::int64_t>(evidence.matrices.size()))
    text += ", in " + lattice["matrices"].dump() + " of " + lattice["of"].dump() + " matrices";
  return text;
}

// "4bit", "3-bit", "w4", "wbits_4" in a name: the number, or 0.
int bits_in_name(std::string name) {
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto is_digit = [&](std::size_t i) { return i < name.size() && std::isdigit(static_cast<unsigned char>(name[i])); };
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] < '2' || name[i] > '8' || is_digit(i + 1) || (i > 0 && (is_digit(i - 1) || name[i - 1] == '.'))) continue;
    const std::size_t after = i + 1 + (i + 1 < name.size() && (name[i + 1] == '-' || name[i + 1] == '_'));
    if (name.compare(after, 3, "bit") == 0) return name[i] - '0';
    const std::string before = name.substr(0, i);
    const bool starts_word = before.size() < 2 || !std::isalpha(static_cast<unsigned char>(before[before.size() - 2]));
    if ((before.ends_with("w") && starts_word) || before.ends_with("wbits") || before.ends_with("wbits_") || before.ends_with("wbits-") ||
        before.ends_with("int"))
      return name[i] - '0';
  }
  return 0;
}

// The first number of bits below 9 that a key of this kind states, in any depth that parse_json accepts.
std::optional<double> bits_in_json(const Json& json) {
  static const std::set<std::string> kKeys{"wbits",        "w_bits",          "weight_bits", "bits",  "avg_bits",
                                           "average_bits", "target_avg_bits", "num_bits",    "nbits", "bits_mean"};
  if (!json.is_structured()) return std::nullopt;
  for (const auto& [key, value] : json.items()) {
    if (json.is_object() && kKeys.contains(key) && value.is_number() && value.get<double>() > 1 && value.get<double>() < 9)
      return value.get<double>();
    if (const auto found = bits_in_json(value)) return found;
  }
  return std::nullopt;
}

bool may_state_bits(const std::string& name) {
  return name.ends_with(".json") && name.find("token") == std::string::npos && name.find("index") == std::string::npos &&
         !name.starts_with("vocab");
}

// What names or files say of a quantization; empty when nothing.
std::string claim_of(const Model& model, const std::string& path) {
  std::map<std::string, std::string> texts;
  for (const auto& [name, blob] : model.files) {
    if (may_state_bits(name) && blob.size() <= kLargestHint) texts[name] = blob.text();
  }
  std::error_code ignored;
  if (!path.empty() && fs::is_directory(path, ignored)) {
    for (const auto& entry : fs::directory_iterator(path, ignored)) {
      const std::string name = entry.path().filename().string();
      if (may_state_bits(name) && entry.is_regular_file(ignored) && entry.file_size(ignored) <= kLargestHint)
        texts.emplace(name, read_text_file(entry.path().string()));
    }
  }
  for (const auto& [name, text] : texts) {
    try {
      if (const auto bits = bits_in_json(parse_json(text, name))) return name + " states " + number(*bits) + " bits";
    } catch (const Error&) {
      // Someone's notes that are no JSON claim nothing.
    }
  }
  for (const std::string& name : {model.name, fs::path(path).filename().string()}) {
    if (const int bits = bits_in_name(name)) return "the name '" + name + "' speaks of " + std::to_string(bits) + " bits";
  }
  return {};
}

void warn(const Evidence& evidence, const std::string& claim, Json& result) {
  if (!claim.empty()) result["claim"] = claim;
  if (evidence.quantized()) return;
  Json& warnings = result["warnings"];
  if (evidence.sparse() && claim.empty()) {
    warnings.push_back("there are zeros, but no lattice: if this checkpoint was meant to be quantized, the quantization had no effect");
  } else if (evidence.sparse()) {
    warnings.push_back(
        claim +
        ", but there are only zeros and no lattice: the quantization had no effect. The earlier enhanced and MI scripts give every "
        "element a scale of its own and leave exactly this; report the checkpoint as pruned only");
  } else if (!claim.empty()) {
    warnings.push_back(claim + ", but the weights lie on no lattice: it was not quantized, or its scales were changed afterwards");
  }
}

std::string structure_of(const Config& config) {
  std::int64_t deleted = 0;
  std::set<std::string> sizes;
  for (const LayerConfig& layer : config.layers) {
    deleted += layer.identity;
    if (!layer.identity)
      sizes.insert(std::to_string(layer.heads) + "/" + std::to_string(layer.kv_heads) + "/" + std::to_string(layer.mlp_width));
  }
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "; ") + part; };
  if (config.sliced) add("SliceGPT: rotated and sliced");
  if (sizes.size() > 1) add("structured pruning (LLM-Pruner style): " + std::to_string(sizes.size()) + " different sizes of layers");
  if (deleted > 0) add(std::to_string(deleted) + " of " + std::to_string(config.layers.size()) + " layers deleted");
  return text;
}

}  // namespace

Json recognise(const Model& model, ThreadPool& pool, const std::string& path) {
  std::vector<std::pair<std::string, const Tensor*>> linears;
  for (const ExpectedTensor& expected : expected_tensors(model.config)) {
    const auto found = model.tensors.find(expected.name);
    if (expected.linear && expected.layer >= 0 && found != model.tensors.end()) linears.emplace_back(expected.name, &found->second);
  }
  std::vector<std::optional<WeightStatistics>> statistics(linears.size());
  pool.for_each(static_cast<std::int64_t>(linears.size()), [&](std::int64_t i) {
    const auto& [name, tensor] = linears[static_cast<std::size_t>(i)];
    statistics[static_cast<std::size_t>(i)] = weight_statistics(*tensor, name, pool);
  });
  std::vector<WeightStatistics> known;
  for (const auto& s : statistics) {
    if (s) known.push_back(*s);
  }
  const Evidence evidence(std::move(known));
  Json result{{"evidence", Json::array()}, {"warnings", Json::array()}, {"sparsity", evidence.sparsity}};
  if (evidence.with_lattice > 0) {
    describe_quantization(evidence, result);
    result["pruned"] = evidence.pruned;
    if (evidence.sparsity > kFewZeros && !evidence.sparse()) result["evidence"].push_back("rounding alone explains the zeros");
  }
  result["method"] = evidence.sparse() ? pruning_method(evidence, result) : evidence.quantized() ? "quantized" : "dense";
  result["guess"] = guess_text(result, evidence);
  if (const std::int64_t values = block_values(evidence)) describe_blocks(values, result);
  if (const std::string structure = structure_of(model.config); !structure.empty()) {
    result["structure"] = structure;
    result["guess"] = structure + "; " + result["guess"].get<std::string>();
  }
  warn(evidence, claim_of(model, path), result);
  return result;
}

}  // namespace miq

// Keys and meaning are those of llama.cpp: gguf-py's constants.py, and src/llama-model.cpp for what a file
// leaves out (whether the weights of the chosen experts are made to sum to one). Llama 3's rotary scaling
// comes as a table of divisors (rope_freqs.weight, convert_hf_to_gguf.py); the parameters that made it are
// found again, and must give the same table.
#include "miq/converters/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <utility>

#include "miq/base/error.h"

namespace miq {
namespace {

struct GgufArchitecture {
  std::string_view gguf, ours;
  bool query_bias, query_key_norm, normalise_experts;
};
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "llama", false, false, true},           {"qwen2", "qwen2", true, false, true},
    {"qwen3", "qwen3", false, true, true},            {"qwen2moe", "qwen2_moe", true, false, false},
    {"qwen3moe", "qwen3_moe", false, true, true},
};

// Typed access to the metadata, with errors that name the file and the key. Keys without a dot at their
// start stand below the architecture's name: "context_length" is "llama.context_length".
class Metadata {
 public:
  Metadata(const GgufFile& file, const std::string& path) : values_(file.metadata), path_(path) { type_ = text("general.architecture"); }

  const std::string& type() const { return type_; }
  bool has(const std::string& key) const { return values_.contains(full(key)); }
  std::string text(const std::string& key) const {
    if (const auto* value = std::get_if<std::string>(&at(key))) return *value;
    throw FormatError(path_, "metadata key '" + full(key) + "' is not a string");
  }
  std::int64_t size(const std::string& key) const {
    const GgufValue& value = at(key);
    std::uint64_t number = 0;
    if (const auto* whole = std::get_if<std::uint64_t>(&value)) number = *whole;
    if (const auto* whole = std::get_if<std::int64_t>(&value)) number = *whole > 0 ? static_cast<std::uint64_t>(*whole) : 0;
    if (number == 0 || number > std::uint64_t{1} << 32) throw FormatError(path_, "metadata key '" + full(key) + "' is not a size between 1 and 2^32");
    return static_cast<std::int64_t>(number);
  }
  double number(const std::string& key) const {
    const GgufValue& value = at(key);
    if (const auto* real = std::get_if<double>(&value); real && *real > 0 && *real < std::numeric_limits<double>::infinity()) return *real;
    throw FormatError(path_, "metadata key '" + full(key) + "' is not a positive number");
  }
  std::optional<std::int64_t> id(const std::string& key) const {
    if (!has(key)) return std::nullopt;
    if (const auto* whole = std::get_if<std::uint64_t>(&at(key)); whole && *whole < std::uint64_t{1} << 31) return static_cast<std::int64_t>(*whole);
    return std::nullopt;
  }

 private:
  std::string full(const std::string& key) const {
    return key.starts_with("general.") || key.starts_with("tokenizer.") ? key : type_ + "." + key;
  }
  const GgufValue& at(const std::string& key) const {
    const auto found = values_.find(full(key));
    if (found == values_.end()) throw FormatError(path_, "metadata key '" + full(key) + "' is missing");
    return found->second;
  }
  const std::map<std::string, GgufValue>& values_;
  const std::string& path_;
  std::string type_;
};

const GgufArchitecture& row_for(const Metadata& metadata, const std::string& path) {
  std::string known;
  for (const GgufArchitecture& row : kArchitectures) {
    if (row.gguf == metadata.type()) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.gguf);
  }
  throw FormatError(path, "GGUF architecture '" + metadata.type() + "' is not supported; supported: " + known,
                    "If its Hugging Face form is of a supported family, convert that instead");
}

// The divisor of the frequency of each pair under llama3's rule.
double llama3_divisor(double frequency, const RopeScaling& s) {
  const double turns = static_cast<double>(s.original_max_positions) * frequency / (2 * std::numbers::pi);
  const double smooth = std::clamp((turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor), 0.0, 1.0);
  return 1 / ((1 - smooth) / s.factor + smooth);
}

bool gives_table(const RopeScaling& scaling, const std::vector<float>& table, double theta) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(table.size()));
    if (!(std::abs(llama3_divisor(frequency, scaling) - table[i]) <= 1e-5 * table[i])) return false;
  }
  return true;
}

// Two pairs between the ends of the ramp determine it up to a scale, which low_frequency_factor 1 fixes.
std::optional<RopeScaling> solve_llama3(const std::vector<float>& table, double theta) {
  RopeScaling scaling{RopeScaling::Kind::Llama3};
  scaling.factor = table.back();
  scaling.original_max_positions = 8192;  // as Llama 3 was trained
  if (!(scaling.factor > 1)) return std::nullopt;
  if (gives_table(scaling, table, theta)) return scaling;
  std::vector<std::pair<double, double>> ramp;  // frequency / 2 pi, smooth
  for (std::size_t i = 0; i < table.size(); ++i) {
    const double smooth = (1 / static_cast<double>(table[i]) - 1 / scaling.factor) / (1 - 1 / scaling.factor);
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(table.size()));
    if (smooth > 1e-3 && smooth < 1 - 1e-3) ramp.emplace_back(frequency / (2 * std::numbers::pi), smooth);
  }
  if (ramp.size() < 2) return std::nullopt;
  const double slope = (ramp.front().second - ramp.back().second) / (ramp.front().first - ramp.back().first);
  const double start = slope * ramp.back().first - ramp.back().second;  // low / (high - low)
  if (!(start > 1e-6) || !(slope / start < 1e9)) return std::nullopt;
  scaling.high_frequency_factor = 1 + 1 / start;
  scaling.original_max_positions = std::llround(slope / start);
  if (std::abs(scaling.high_frequency_factor - std::round(scaling.high_frequency_factor)) < 1e-2) {
    scaling.high_frequency_factor = std::round(scaling.high_frequency_factor);
  }
  return scaling.original_max_positions > 0 && gives_table(scaling, table, theta) ? std::optional(scaling) : std::nullopt;
}

RopeScaling read_rope_scaling(const Metadata& metadata, const GgufFile& file, const Config& config, std::int64_t head_dim, const std::string& path) {
  RopeScaling scaling;
  if (const auto found = file.tensors.find("rope_freqs.weight"); found != file.tensors.end()) {
    const std::vector<float> table = dequantize_gguf(found->second, path + ": tensor 'rope_freqs.weight'");
    if (static_cast<std::int64_t>(table.size()) != head_dim / 2) throw FormatError(path, "tensor 'rope_freqs.weight' does not have one number for each pair of a head");
    if (std::ranges::all_of(table, [](float divisor) { return divisor == 1; })) return scaling;
    const auto solved = solve_llama3(table, config.rope_theta);
    if (!solved) {
      throw FormatError(path, "the file scales its rotary positions by a table (rope_freqs.weight) that is not Llama 3's", "Convert the original Hugging Face folder instead");
    }
    return *solved;
  }
  const std::string type = metadata.has("rope.scaling.type") ? metadata.text("rope.scaling.type") : "none";
  if (type == "none") return scaling;
  if (type != "linear" && type != "yarn") {
    throw FormatError(path, "rope scaling '" + type + "' is not supported; supported: none, linear, yarn, and Llama 3's table");
  }
  scaling.factor = metadata.number("rope.scaling.factor");
  scaling.kind = type == "linear" ? RopeScaling::Kind::Linear : RopeScaling::Kind::Yarn;
  if (type == "linear") return scaling;
  scaling.original_max_positions = metadata.has("rope.scaling.original_context_length") ? metadata.size("rope.scaling.original_context_length") : config.max_positions;
  scaling.attention_factor = scaling.factor <= 1 ? 1 : 0.1 * std::log(scaling.factor) + 1;
  if (metadata.has("rope.scaling.yarn_beta_fast")) scaling.beta_fast = metadata.number("rope.scaling.yarn_beta_fast");
  if (metadata.has("rope.scaling.yarn_beta_slow")) scaling.beta_slow = metadata.number("rope.scaling.yarn_beta_slow");
  for (const char* key : {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"}) {
    if (metadata.has(key) && metadata.number(key) != 1) throw FormatError(path, "metadata key '" + metadata.type() + "." + key + "' is not 1, which is not supported");
  }
  return scaling;
}

// Rows of a matrix, or of each of the matrices that a tensor of experts holds; 0 where it is missing.
std::int64_t rows_of(const GgufFile& file, const std::string& name) {
  const auto found = file.tensors.find(name);
  return found == file.tensors.end() || found->second.shape.size() < 2 ? 0 : found->second.shape[found->second.shape.size() - 2];
}

void read_experts(const GgufFile& file, std::size_t number, std::int64_t experts, LayerConfig& layer, const std::string& path) {
  const std::string prefix = "blk." + std::to_string(number) + ".";
  if (!file.tensors.contains(prefix + "ffn_gate_inp.weight")) return;
  if (experts == 0) throw FormatError(path, "tensor '" + prefix + "ffn_gate_inp.weight' routes to experts, but the metadata has no expert_count");
  layer.experts = experts;
  layer.mlp_width = std::max(rows_of(file, prefix + "ffn_gate_exps.weight"), rows_of(file, prefix + "ffn_gate.0.weight"));
  layer.shared_width = rows_of(file, prefix + "ffn_gate_shexp.weight");
  if (layer.mlp_width == 0) throw FormatError(path, "layer " + std::to_string(number) + " has a router but no experts (ffn_gate_exps.weight)");
}

}  // namespace

bool gguf_interleaves_rotary_rows(const GgufFile& file) {
  const auto found = file.metadata.find("general.architecture");
  const auto* type = found == file.metadata.end() ? nullptr : std::get_if<std::string>(&found->second);
  return type && *type == "llama";
}

Config gguf_config(const GgufFile& file, const std::string& path) {
  const Metadata metadata(file, path);
  const GgufArchitecture& row = row_for(metadata, path);
  Config config;
  config.architecture = row.ours;
  config.hidden = metadata.size("embedding_length");
  config.max_positions = metadata.size("context_length");
  config.norm_epsilon = metadata.number("attention.layer_norm_rms_epsilon");
  config.query_bias = row.query_bias || file.tensors.contains("blk.0.attn_q.bias");
  config.output_bias = file.tensors.contains("blk.0.attn_output.bias");
  config.query_key_norm = row.query_key_norm;
  if (metadata.has("rope.freq_base")) config.rope_theta = metadata.number("rope.freq_base");
  LayerConfig layer;
  layer.heads = metadata.size("attention.head_count");
  layer.kv_heads = metadata.has("attention.head_count_kv") ? metadata.size("attention.head_count_kv") : layer.heads;
  layer.head_dim = metadata.has("attention.key_length") ? metadata.size("attention.key_length") : config.hidden / layer.heads;
  layer.mlp_width = metadata.has("feed_forward_length") ? metadata.size("feed_forward_length") : 1;
  if (layer.head_dim == 0) throw FormatError(path, "more heads than hidden channels");
  check_layer(config, layer, path);
  if (metadata.has("rope.dimension_count") && metadata.size("rope.dimension_count") != layer.head_dim) {
    throw FormatError(path, "only a part of each head is rotated (" + metadata.type() + ".rope.dimension_count), which is not supported");
  }
  config.rope_scaling = read_rope_scaling(metadata, file, config, layer.head_dim, path);
  const std::int64_t layers = metadata.size("block_count");
  if (layers > kMostLayers) throw FormatError(path, std::to_string(layers) + " layers are more than any model has");
  config.layers.assign(static_cast<std::size_t>(layers), layer);

  const std::int64_t experts = metadata.has("expert_count") ? metadata.size("expert_count") : 0;
  if (experts > 0) {
    config.experts_per_token = metadata.size("expert_used_count");
    config.normalise_experts = row.normalise_experts;
    if (row.ours == "llama") config.architecture = "mixtral";
  }
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    read_experts(file, i, experts, config.layers[i], path);
    check_layer(config, config.layers[i], path);
  }
  check_experts(config, path);
  const auto embedding = file.tensors.find("token_embd.weight");
  if (embedding == file.tensors.end() || embedding->second.shape.size() != 2) throw FormatError(path, "tensor 'token_embd.weight' is missing or no matrix");
  config.vocabulary = embedding->second.shape[0];
  config.tied_head = !file.tensors.contains("output.weight");
  config.bos_id = metadata.id("tokenizer.ggml.bos_token_id");
  config.eos_id = metadata.id("tokenizer.ggml.eos_token_id");
  return config;
}

}  // namespace miq

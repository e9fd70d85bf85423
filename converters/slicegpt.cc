// The config of a sliced model is its base model's with every width read off the tensors. Each size that the
// base model states is then compared with the tensor that shows it, so that slices and base folder of
// different models are told apart with both numbers, before validate() would find a shape it cannot explain.
#include "miq/converters/slicegpt.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "miq/base/error.h"
#include "miq/model/architecture.h"
#include "miq/model/config_fields.h"

namespace miq {
namespace {

constexpr double kEpsilon = 1e-5;  // slicegpt/modules.py, RMSN
constexpr std::string_view kAttentionRotation = "attn_shortcut_Q";
// run_slicegpt.py's default, load_sliced_model()'s, and what else people choose.
constexpr std::int64_t kIntervals[] = {8, 1, 128, 64, 32, 16, 256, 4, 2};
constexpr std::size_t kDefaultIntervals = 2;

using Tensors = std::map<std::string, Tensor>;

std::string text(std::int64_t number) { return std::to_string(number); }

// Reads the widths off one model's tensors into its config.
class Slices {
 public:
  Slices(Config& config, const Tensors& tensors, const std::string& where)
      : config_(config), tensors_(tensors), where_(where), row_(architecture(config.architecture)) {}

  void read() {
    if (rule_name(row_, Role::AttentionRotation).empty() || rule_name(row_, Role::MlpRotation).empty()) {
      fail("models of architecture '" + config_.architecture + "' cannot be sliced by SliceGPT; dense decoders can, of llama and its kin and of opt");
    }
    if (!config_.norm_first) fail("the base model normalises after the residual sum; SliceGPT slices only models that do so before");
    if (config_.embedding != 0) {
      fail("the base model projects its embedding from width " + text(config_.embedding) + "; SliceGPT does not slice such models");
    }
    config_.sliced = true;
    config_.norm = NormKind::FusedRms;
    config_.norm_epsilon = kEpsilon;
    config_.tied_head = false;
    config_.head_bias = found(std::string(global_name(row_, Role::Head, true))) != nullptr;
    const Shape embedding = matrix(std::string(global_name(row_, Role::Embedding)));
    same("vocabulary", "rows of the embedding", embedding[0], config_.vocabulary);
    check_layer_count();
    std::int64_t width = embedding[1];
    for (std::size_t i = 0; i < config_.layers.size(); ++i) width = read_layer(static_cast<std::int64_t>(i), width);
    const Shape head = matrix(std::string(global_name(row_, Role::Head)));
    same("vocabulary", "rows of the head", head[0], config_.vocabulary);
    if (head[1] != width) fail("the head has " + text(head[1]) + " columns, but the last layer hands on a width of " + text(width));
  }

 private:
  [[noreturn]] void fail(const std::string& problem, const std::string& remedy = {}) const { throw FormatError(where_, problem, remedy); }

  void same(const std::string& what, const std::string& seen_in, std::int64_t in_slices, std::int64_t in_base) const {
    if (in_slices == in_base) return;
    fail("the slices and the base model disagree on the " + what + ": " + text(in_slices) + " (" + seen_in + ") against " + text(in_base) +
             " (config)",
         "Give the base model that was sliced");
  }

  const Tensor* found(const std::string& name) const {
    const auto entry = tensors_.find(name);
    return entry == tensors_.end() ? nullptr : &entry->second;
  }

  // The shape of a matrix that must be there.
  const Shape& matrix(const std::string& name) const {
    const Tensor* tensor = found(name);
    if (!tensor) fail("tensor '" + name + "' is missing", "The file is incomplete, or not one of SliceGPT");
    if (tensor->shape.size() != 2) {
      fail("tensor '" + name + "' has " + text(static_cast<std::int64_t>(tensor->shape.size())) + " dimensions, expected 2");
    }
    return tensor->shape;
  }

  const Shape& matrix(std::int64_t layer, Role role) const { return matrix(layer_tensor_name(row_, layer, rule_name(row_, role))); }
  bool has_bias(std::int64_t layer, Role role) const {
    return found(layer_tensor_name(row_, layer, rule_name(row_, role, true))) != nullptr;
  }

  void check_layer_count() const {
    std::set<std::string, std::less<>> numbers;
    for (const auto& [name, tensor] : tensors_) {
      if (!name.starts_with(row_.layer_prefix)) continue;
      numbers.insert(name.substr(row_.layer_prefix.size(), name.find('.', row_.layer_prefix.size()) - row_.layer_prefix.size()));
    }
    same("number of layers", "of the tensors", static_cast<std::int64_t>(numbers.size()), static_cast<std::int64_t>(config_.layers.size()));
  }

  // `width` is that of the stream before the layer; returns that behind it.
  std::int64_t read_layer(std::int64_t number, std::int64_t width) {
    LayerConfig& layer = config_.layers[static_cast<std::size_t>(number)];
    const std::string of = " of layer " + text(number);
    if (!found(layer_tensor_name(row_, number, rule_name(row_, Role::AttentionRotation)))) {
      fail("rotation '" + layer_tensor_name(row_, number, rule_name(row_, Role::AttentionRotation)) + "' is missing",
           "The file holds no model sliced by SliceGPT, or only a part of it");
    }
    const Shape &attention = matrix(number, Role::AttentionRotation), &mlp = matrix(number, Role::MlpRotation);
    layer.input = attention[0];
    layer.middle = attention[1];
    layer.output = mlp[1];
    if (layer.input != width) {
      fail("the attention rotation" + of + " has " + text(layer.input) + " rows, but the stream before it is " + text(width) + " wide");
    }
    if (mlp[0] != layer.middle) {
      fail("the MLP rotation" + of + " has " + text(mlp[0]) + " rows, but the attention rotation " + text(layer.middle) + " columns");
    }
    for (const std::int64_t w : {layer.input, layer.middle, layer.output}) {
      if (w > config_.hidden) {
        fail("layer " + text(number) + " has a width of " + text(w) + ", more than the base model's hidden size " + text(config_.hidden));
      }
    }
    check_heads(number, Role::Query, layer.heads, layer.head_dim);
    check_heads(number, Role::Key, layer.kv_heads, layer.head_dim);
    same("MLP width" + of, "rows of its matrix", matrix(number, Role::Up)[0], layer.mlp_width);
    config_.query_bias = has_bias(number, Role::Query);
    config_.output_bias = has_bias(number, Role::AttentionOutput);
    config_.mlp_bias = has_bias(number, Role::Up);
    return layer.output;
  }

  void check_heads(std::int64_t layer, Role role, std::int64_t heads, std::int64_t head_dim) const {
    const std::int64_t rows = matrix(layer, role)[0];
    if (rows == heads * head_dim) return;
    const char* what = role == Role::Query ? "query" : "key/value";
    fail("the slices and the base model disagree on heads or head dimension: the " + std::string(what) + " matrix of layer " + text(layer) +
             " has " + text(rows) + " rows, but " + text(heads) + " heads of dimension " + text(head_dim) + " (config) make " +
             text(heads * head_dim),
         "Give the base model that was sliced");
  }

  Config& config_;
  const Tensors& tensors_;
  const std::string& where_;
  const Architecture& row_;
};

// The official json against the widths of the tensors.
void check_schedule(const Config& config, const Json& schedule, const std::string& where) {
  const ConfigFields fields(schedule, where);
  const auto same = [&](const std::string& key, std::int64_t stated, std::int64_t real) {
    if (stated != real) {
      throw FormatError(where, "states " + key + " " + text(stated) + ", but the tensors have " + text(real),
                        "The json belongs to another file");
    }
  };
  const auto layers = static_cast<std::int64_t>(config.layers.size());
  if (fields.flag_or("parallel_blocks", false)) {
    throw FormatError(where, "key 'parallel_blocks' is true: attention and MLP side by side are not supported");
  }
  if (fields.has("hidden_size")) same("hidden_size", fields.size("hidden_size"), config.hidden);
  if (fields.has("layers_num")) same("layers_num", fields.size("layers_num"), layers);
  if (fields.has("head_dimension")) same("head_dimension", fields.size("head_dimension"), head_width(config));
  const bool sliced_head = head_width(config) != config.hidden;
  if (fields.has("do_slice_head") && !fields.flag("do_slice_head") && sliced_head) {
    throw FormatError(where,
                      "states an unsliced head (do_slice_head false), which has " + text(config.hidden) + " columns, but the tensor has " +
                          text(head_width(config)),
                      "The json or the base model belongs to another file");
  }
  const auto widths = [&](const char* key, std::int64_t count, const auto& real) {
    if (!fields.has(key)) return;
    const ConfigFields entries(fields.at(key), where + " (" + key + ")");
    for (std::int64_t i = 0; i < count; ++i) {
      const std::string number = text(i);
      if (entries.has(number.c_str())) {
        same(std::string(key) + " " + number, entries.size(number.c_str()), real(static_cast<std::size_t>(i)));
      }
    }
  };
  widths("embedding_dimensions", 2, [&](std::size_t) { return embedding_width(config); });
  widths("attention_input_dimensions", layers, [&](std::size_t i) { return config.layers[i].input; });
  widths("attention_output_dimensions", layers, [&](std::size_t i) { return config.layers[i].middle; });
  widths("mlp_input_dimensions", layers, [&](std::size_t i) { return config.layers[i].middle; });
  widths("mlp_output_dimensions", layers, [&](std::size_t i) { return config.layers[i].output; });
}

// A sparsity against the widths, where it makes all of them. Returns the round interval.
std::optional<std::int64_t> check_sparsity(const Config& config, const SliceFacts& facts) {
  if (!facts.sparsity) return facts.round_interval;
  const double sparsity = *facts.sparsity;
  if (!(sparsity >= 0 && sparsity < 1)) throw FormatError(facts.where, "a sparsity of " + Json(sparsity).dump() + " is outside [0, 1)");
  const bool scheduled = !facts.schedule.is_null();
  const std::int64_t width = embedding_width(config);
  std::optional<std::int64_t> interval = facts.round_interval;
  if (!interval) {
    const std::span candidates(kIntervals, scheduled ? std::size(kIntervals) : kDefaultIntervals);
    const auto explains =
        std::ranges::find_if(candidates, [&](std::int64_t i) { return sliced_width(config.hidden, sparsity, i) == width; });
    if (explains != candidates.end()) interval = *explains;
  }
  // A json may state any widths; the number in a name is then a description at most.
  if (scheduled && !facts.sparsity_stated) return interval;
  const std::int64_t rounded_to = interval.value_or(kIntervals[0]);
  const std::int64_t expected = sliced_width(config.hidden, sparsity, rounded_to);
  const auto check = [&](std::int64_t real, const std::string& what) {
    if (real == expected) return;
    throw FormatError(facts.where,
                      "sparsity " + Json(sparsity).dump() + " and round interval " + text(rounded_to) + " make a width of " +
                          text(expected) + " of " + text(config.hidden) + ", but " + what + " is " + text(real) + " wide",
                      "Give the right --sparsity or --round-interval, or the .json that was written beside the .pt");
  };
  check(width, "the embedding");
  if (scheduled) return interval;
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    check(config.layers[i].input, "layer " + std::to_string(i));
    check(config.layers[i].middle, "the MLP of layer " + std::to_string(i));
  }
  return interval;
}

std::int64_t count_parameters(const Config& config, bool rotations) {
  std::int64_t count = 0;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    if (tensor.part == Part::Rotation && !rotations) continue;
    std::int64_t elements = 1;
    for (const std::int64_t size : tensor.shape) elements *= size;
    count += elements;
  }
  return count;
}

void describe(Model& model, const SliceFacts& facts, std::optional<std::int64_t> interval) {
  const Config& config = model.config;
  Config whole = config;
  double inputs = 0;
  for (LayerConfig& layer : whole.layers) {
    inputs += static_cast<double>(layer.input);
    layer.input = layer.middle = layer.output = 0;
  }
  const std::int64_t parameters = count_parameters(config, true), before = count_parameters(whole, false);
  const double mean_width = inputs / static_cast<double>(config.layers.size());
  model.method = {{"name", "slicegpt"},
                  {"actual_ratio", 1 - mean_width / static_cast<double>(config.hidden)},
                  {"parameter_ratio", 1 - static_cast<double>(parameters) / static_cast<double>(before)},
                  {"sliced_head", head_width(config) != config.hidden}};
  if (facts.sparsity) model.method["pruning_ratio"] = *facts.sparsity;
  if (interval) model.method["round_interval"] = *interval;
  if (!facts.base_model.empty()) model.method["base_model"] = facts.base_model;
  if (!facts.note.empty()) model.method["note"] = facts.note;
  model.statistics["slicing"] = {
      {"parameters", parameters}, {"parameters_fused", before}, {"hidden_size", config.hidden}, {"width", embedding_width(config)}};
}

}  // namespace

std::optional<double> sparsity_of_name(const std::string& stem) {
  const auto underscore = stem.rfind('_');
  const std::string number = underscore == std::string::npos ? "" : stem.substr(underscore + 1);
  double value = -1;
  const auto read = std::from_chars(number.data(), number.data() + number.size(), value, std::chars_format::fixed);
  if (number.find('.') == std::string::npos || read.ec != std::errc{} || read.ptr != number.data() + number.size()) return std::nullopt;
  return value >= 0 && value < 1 ? std::optional(value) : std::nullopt;
}

bool has_rotations(const Tensors& tensors) {
  return std::ranges::any_of(tensors, [](const auto& entry) { return entry.first.ends_with(kAttentionRotation); });
}

Model assemble_sliced(CheckpointParts parts, const SliceFacts& facts) {
  const std::string where = parts.where;
  std::optional<std::int64_t> interval;
  parts.adjust = [&](Config& config, const Tensors& tensors) {
    if (!facts.schedule.is_null()) {
      // Before the tensors are read, so that a base folder of another size is named as such.
      const ConfigFields fields(facts.schedule, facts.schedule_where);
      if (fields.has("hidden_size") && fields.size("hidden_size") != config.hidden) {
        throw FormatError(facts.schedule_where,
                          "the slices come from a hidden size of " + text(fields.size("hidden_size")) + ", but the base model's is " +
                              text(config.hidden),
                          "Give the base model that was sliced");
      }
    }
    Slices(config, tensors, where).read();
    if (!facts.schedule.is_null()) check_schedule(config, facts.schedule, facts.schedule_where);
    interval = check_sparsity(config, facts);
    // Without a json a sliced head shows in the tensor alone: it then has the width of the stream.
    const bool explained =
        head_width(config) == config.hidden || head_width(config) == embedding_width(config) || !facts.schedule.is_null();
    if (!explained) {
      throw FormatError(where,
                        "the head has " + text(head_width(config)) + " columns; an unsliced one would have the base model's " +
                            text(config.hidden) + ", a sliced one " + text(embedding_width(config)),
                        "Give the base model that was sliced");
    }
  };
  Model model = assemble_model(std::move(parts));
  describe(model, facts, interval);
  return model;
}

Json slicing_schedule(const Config& config) {
  Json schedule{{"hidden_size", config.hidden},
                {"layers_num", config.layers.size()},
                {"do_slice_head", head_width(config) != config.hidden},
                {"parallel_blocks", false},
                {"embedding_dimensions", {{"0", embedding_width(config)}}},
                {"head_dimension", head_width(config)},
                {"const_dimension", nullptr}};
  if (config.positions == Positions::Learned) schedule["embedding_dimensions"]["1"] = embedding_width(config);
  for (const char* key : {"attention_input_dimensions", "attention_output_dimensions", "mlp_input_dimensions", "mlp_output_dimensions"}) {
    schedule[key] = Json::object();
  }
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const std::string number = std::to_string(i);
    schedule["attention_input_dimensions"][number] = config.layers[i].input;
    schedule["attention_output_dimensions"][number] = config.layers[i].middle;
    schedule["mlp_input_dimensions"][number] = config.layers[i].middle;
    schedule["mlp_output_dimensions"][number] = config.layers[i].output;
  }
  return schedule;
}

}  // namespace miq

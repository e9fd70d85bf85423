// Reads what report_json() wrote. A key that is missing is a metric that was not asked for, or was not there yet when the report was
// made; a key of the wrong type is refused by its place, so that a damaged file never passes for a measurement.
#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "miq/base/error.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/report_fields.h"
#include "miq/formats/json.h"
#include "miq/formats/mapped_file.h"

namespace miq {
namespace {

Conditions read_conditions(const JsonFields& fields) {
  Conditions made;
  made.version = fields.text("version");
  made.torch_version = fields.text("torch_version");
  made.device = fields.text("device");
  made.device_name = fields.text("device_name");
  made.dtype = fields.text("dtype");
  made.threads = static_cast<int>(fields.count("threads", 0, 1 << 20));
  made.processes = static_cast<int>(fields.count("processes", 1, 1 << 24));
  return made;
}

ParameterCount read_parameters(const JsonFields& fields) {
  ParameterCount made;
  made.total = fields.count("total");
  made.nonzero = fields.count("nonzero");
  made.decoder_linears = fields.count("decoder_linears");
  made.decoder_linear_zeros = fields.count("decoder_linear_zeros");
  const JsonFields parts = fields.object("by_part");
  for (int i = 0; i <= static_cast<int>(Part::Head); ++i) {
    const auto part = static_cast<Part>(i);
    if (const std::string name(part_name(part)); parts.has(name)) made.by_part.emplace_back(part, parts.count(name));
  }
  return made;
}

MatrixBits read_matrix_bits(const JsonFields& fields, std::int64_t layer, const std::string& name) {
  MatrixBits made{layer, name, fields.text("encoding"), static_cast<std::uint64_t>(fields.count("weights")), 0, 0, 0, {}};
  const auto whole = static_cast<double>(made.weights);
  // Reports before 0.2 have averages alone.
  made.kept = static_cast<std::uint64_t>(fields.count("kept", static_cast<std::int64_t>(made.weights)));
  const auto rounded = [&](const char* average, double weights) {
    return static_cast<std::int64_t>(std::llround(std::clamp(fields.number(average, 0) * weights, 0.0, 9e18)));
  };
  made.code_bits = static_cast<std::uint64_t>(fields.count("code_bit_count", rounded("code_bits", static_cast<double>(made.kept))));
  made.stored_bits = static_cast<std::uint64_t>(fields.count("stored_bit_count", rounded("effective_bits", whole)));
  const JsonFields histogram = fields.object("columns_by_bits");
  for (const std::string& width : histogram.keys()) {
    if (width.empty() || width.size() > 2 || width.find_first_not_of("0123456789") != std::string::npos)
      throw histogram.wrong(width, "is no number of bits");
    made.columns_by_bits[std::stoi(width)] = static_cast<std::uint64_t>(histogram.count(width));
  }
  return made;
}

MatrixOutcome read_outcome(const JsonFields& fields, std::int64_t layer, const std::string& name) {
  MatrixOutcome made;
  made.layer = layer;
  made.name = name;
  made.error = fields.number("error", NAN);
  made.refined = fields.number("refined", 0);
  made.fallback = fields.flag("fallback");
  if (const JsonFields groups = fields.object("groups"); groups.given()) {
    made.groups = groups.count("count");
    made.smallest_group = groups.count("smallest");
    made.largest_group = groups.count("largest");
  }
  if (const JsonFields mi = fields.object("mutual_information"); mi.given()) {
    made.information = {mi.number("mean", 0), mi.number("largest", 0), mi.number("within", 0), mi.number("between", 0), {}};
    const Json& rows = mi.array("blocks", kInformationBlocks);
    for (const Json& row : rows) {
      if (!row.is_array() || row.size() != rows.size()) throw mi.wrong("blocks", "is not square");
      std::vector<double>& values = made.information->blocks.emplace_back();
      for (const Json& value : row) {
        if (!value.is_number()) throw mi.wrong("blocks", "holds something that is no number");
        values.push_back(value.get<double>());
      }
    }
  }
  return made;
}

void read_matrices(const JsonFields& model, ModelReport& made) {
  StructureFigures structure;
  const Json& matrices = model.array("matrices");
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const JsonFields fields = model.element("matrices", i, matrices[i]);
    const std::int64_t layer = fields.count("layer", 0, kMostLayers - 1);
    const std::string name = fields.text("name");
    if (made.parameters)
      made.parameters->matrices.push_back(
          {layer, name, fields.count("rows"), fields.count("cols"), fields.count("weights"), fields.count("zeros")});
    if (made.size && fields.has("encoding")) made.size->matrices.push_back(read_matrix_bits(fields, layer, name));
    if (fields.has("error")) structure.matrices.push_back(read_outcome(fields, layer, name));
  }
  const Json& layers = model.array("layers");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const JsonFields fields = model.element("layers", i, layers[i]);
    structure.layers.push_back({fields.count("layer", 0, kMostLayers - 1), fields.count("heads"), fields.count("mlp_width"),
                                fields.count("width"), fields.number("removed", 0)});
  }
  if (!structure.matrices.empty() || !structure.layers.empty()) made.structure = std::move(structure);
}

SizeFigures read_size(const JsonFields& bytes, const JsonFields& bits) {
  SizeFigures made;
  made.file_bytes = static_cast<std::uint64_t>(bytes.count("file"));
  made.weight_bytes = static_cast<std::uint64_t>(bytes.count("weights"));
  made.code_bits = bits.number("code", 0);
  made.effective_bits = bits.number("effective", 0);
  made.model_bits = bits.number("model", 0);
  const JsonFields encodings = bytes.object("by_encoding");
  for (const std::string& name : encodings.keys()) made.bytes_by_encoding[name] = static_cast<std::uint64_t>(encodings.count(name));
  return made;
}

Perplexity read_perplexity(const JsonFields& fields, const std::string& text) {
  Perplexity made;
  made.text = text;
  made.protocol = fields.text("protocol");
  made.failure = fields.text("failure");
  made.summary.perplexity = fields.number("value", NAN);
  made.summary.mean_nll = fields.number("mean_nll", NAN);
  made.summary.standard_error = fields.number("standard_error", 0);
  made.summary.scored = fields.count("scored_tokens");
  for (const Json& nll : fields.array("window_nll")) {
    if (!nll.is_number() && !nll.is_null()) throw fields.wrong("window_nll", "holds something that is no number");
    made.summary.window_nll.push_back(nll.is_null() ? NAN : nll.get<double>());
  }
  made.text_tokens = fields.count("text_tokens");
  made.tokens = fields.count("tokens");
  made.windows = fields.count("windows");
  made.seqlen = fields.count("seqlen");
  made.text_digest = fields.text("text_digest");
  made.source_digest = fields.text("source_digest");
  made.calibrated_on = fields.flag("calibrated_on");
  if (!made.failed() && !(std::isfinite(made.summary.perplexity) && made.summary.perplexity > 0))
    throw fields.wrong("value", "is no perplexity, and no failure says why");
  return made;
}

Divergence read_divergence(const JsonFields& fields, const std::string& text) {
  Divergence made;
  made.text = text;
  made.reference = fields.text("reference");
  made.reference_digest = fields.text("reference_digest");
  made.tokens = fields.count("tokens");
  made.comparable = !fields.has("not_comparable");
  made.failure = fields.text(made.comparable ? "failure" : "not_comparable");
  if (made.failed()) return made;
  const std::pair<const char*, double*> figures[] = {
      {"mean", &made.mean}, {"standard_error", &made.standard_error}, {"median", &made.median}, {"percentile_90", &made.percentile_90},
      {"percentile_99", &made.percentile_99}, {"maximum", &made.maximum}, {"top1_agreement", &made.same_top},
      {"top1_agreement_error", &made.same_top_error}, {"loss_correlation", &made.loss_correlation}, {"mean_log_ppl_ratio", &made.log_ratio},
      {"mean_log_ppl_ratio_error", &made.log_ratio_error}};
  for (const auto& [key, figure] : figures) *figure = fields.number(key, NAN);
  return made;
}

ZeroShotResult read_zeroshot(const JsonFields& fields, const std::string& task) {
  ZeroShotResult made;
  made.task = task;
  made.path = fields.text("path");
  made.digest = fields.text("digest");
  made.items = fields.count("items");
  made.choices = fields.count("choices");
  made.failure = fields.text("failure");
  made.normalised = fields.mentions("acc_norm");
  made.accuracy = {fields.number("acc", NAN), fields.number("acc_stderr", NAN)};
  made.accuracy_norm = {fields.number("acc_norm", NAN), fields.number("acc_norm_stderr", NAN)};
  if (!made.failed() && !std::isfinite(made.accuracy.value)) throw fields.wrong("acc", "is missing, and no failure says why");
  for (const Json& item : fields.array("log_likelihoods")) {
    if (!item.is_array()) throw fields.wrong("log_likelihoods", "holds something that is no list");
    std::vector<double>& scores = made.item_scores.emplace_back();
    for (const Json& score : item) {
      if (!score.is_number() && !score.is_null()) throw fields.wrong("log_likelihoods", "holds something that is no number");
      scores.push_back(score.is_null() ? NAN : score.get<double>());
    }
  }
  return made;
}

// The report's list of names, whose order an object's keys do not keep.
std::vector<std::string> read_order(const JsonFields& fields, const std::string& key) {
  std::vector<std::string> order;
  for (const Json& name : fields.array(key)) {
    if (!name.is_string()) throw fields.wrong(key, "holds something that is no text");
    if (std::find(order.begin(), order.end(), name.get_ref<const std::string&>()) == order.end()) order.push_back(name.get<std::string>());
  }
  return order;
}

struct Order {
  std::vector<std::string> texts, tasks;
};

// Keys of an object of texts, in the order of the report where it has one.
std::vector<std::string> ordered_keys(const JsonFields& texts, const std::vector<std::string>& order) {
  std::vector<std::string> keys;
  for (const std::string& text : order) {
    if (texts.has(text)) keys.push_back(text);
  }
  for (const std::string& text : texts.keys()) {
    if (texts.has(text) && std::find(order.begin(), order.end(), text) == order.end()) keys.push_back(text);
  }
  return keys;
}

GenerationSpeed read_generation(const JsonFields& fields) {
  GenerationSpeed made;
  made.prompt = fields.count("prompt");
  made.new_tokens = fields.count("new_tokens");
  made.shortened = fields.flag("shortened");
  made.load_seconds = fields.number("load_seconds", 0);
  made.weight_bytes = static_cast<std::uint64_t>(fields.count("weight_bytes"));
  made.cache_bytes = static_cast<std::uint64_t>(fields.count("cache_bytes"));
  const Json& runs = fields.array("runs");
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const JsonFields run = fields.element("runs", i, runs[i]);
    made.runs.push_back({run.count("batch"), run.number("prompt_tokens_per_second", 0), run.number("tokens_per_second", 0), run.number("ms_per_token", 0)});
  }
  return made;
}

MacCount read_macs(const JsonFields& fields) {
  MacCount made;
  made.products = fields.count("products");
  made.length = fields.count("attention_length");
  made.attention = fields.number("attention", 0);
  const JsonFields parts = fields.object("by_part");
  for (int i = 0; i <= static_cast<int>(Part::Head); ++i) {
    const auto part = static_cast<Part>(i);
    if (const std::string name(part_name(part)); parts.has(name)) made.by_part.emplace_back(part, parts.count(name));
  }
  return made;
}

void read_cost(const JsonFields& model, ModelReport& made) {
  if (const JsonFields generation = model.object("generation"); generation.given()) made.generation = read_generation(generation);
  if (const JsonFields macs = model.object("macs"); macs.given()) made.macs = read_macs(macs);
  if (const JsonFields speed = model.object("throughput"); speed.given()) {
    made.throughput = Throughput{speed.number("tokens_per_second", 0), speed.number("seconds", 0), speed.count("tokens"),
                                 speed.count("seqlen"), speed.flag("synthetic")};
  }
  if (const JsonFields memory = model.object("memory"); memory.given()) {
    made.memory = MemoryFigures{static_cast<std::uint64_t>(memory.count("peak_bytes")),
                                static_cast<std::uint64_t>(memory.count("peak_anonymous_bytes")),
                                static_cast<std::uint64_t>(memory.count("idle_anonymous_bytes"))};
  }
}

ModelReport read_model(const JsonFields& fields, const Order& order) {
  ModelReport made;
  made.name = fields.text("name");
  made.path = fields.text("path");
  made.digest = fields.text("digest");
  made.method = fields.raw_object("method_parameters");
  made.calibration = fields.raw_object("calibration");
  made.source = fields.raw_object("source");
  made.statistics = fields.raw_object("statistics");
  const JsonFields architecture = fields.object("architecture");
  made.architecture = architecture.text("name");
  made.tokenizer = architecture.text("tokenizer");
  made.layers = architecture.count("layers", 0, kMostLayers);
  made.hidden = architecture.count("hidden");
  made.vocabulary = architecture.count("vocabulary");
  made.max_positions = architecture.count("max_positions");
  if (const JsonFields parameters = fields.object("parameters"); parameters.given()) made.parameters = read_parameters(parameters);
  if (const JsonFields bytes = fields.object("bytes"); bytes.given()) made.size = read_size(bytes, fields.object("bits_per_weight"));
  read_matrices(fields, made);
  const JsonFields texts = fields.object("perplexity");
  for (const std::string& text : ordered_keys(texts, order.texts)) made.perplexity.push_back(read_perplexity(texts.object(text), text));
  const JsonFields divergences = fields.object("divergence");
  for (const std::string& text : ordered_keys(divergences, order.texts))
    made.divergence.push_back(read_divergence(divergences.object(text), text));
  const JsonFields tasks = fields.object("zeroshot");
  for (const std::string& task : ordered_keys(tasks, order.tasks)) made.zeroshot.push_back(read_zeroshot(tasks.object(task), task));
  read_cost(fields, made);
  if (const JsonFields conditions = fields.object("conditions"); conditions.given()) made.conditions = read_conditions(conditions);
  for (const Json& failure : fields.array("failures")) {
    if (!failure.is_string()) throw fields.wrong("failures", "holds something that is no text");
    made.failures.push_back(failure.get<std::string>());
  }
  return made;
}

}  // namespace

Report report_from_json(const Json& json, const std::string& name) {
  if (!json.is_object() || !json.contains("schema") || !json["schema"].is_string())
    throw FormatError(name, "is no report of run-eval: it has no \"schema\"", "Give a file that run-eval --output wrote");
  const JsonFields fields(json, name, "");
  if (const std::string schema = fields.text("schema"); schema != "miq.eval/1")
    throw FormatError(name, "has schema '" + schema.substr(0, 80) + "', and this version reads miq.eval/1", "Use the version that wrote it");
  Report made;
  static_cast<Conditions&>(made) = read_conditions(fields);
  made.protocol = fields.text("protocol");
  const Order order{read_order(fields, "texts"), read_order(fields, "tasks")};
  const Json& models = fields.array("models");
  if (models.empty()) throw FormatError(name, "holds no model");
  for (std::size_t i = 0; i < models.size(); ++i) made.models.push_back(read_model(fields.element("models", i, models[i]), order));
  return made;
}

Report read_report(const std::string& path) {
  const Blob file = map_file(path);
  const std::string_view text = file.text();
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string::npos || text[start] != '{')
    throw FormatError(path, "is no report of run-eval", "Give a file that run-eval --output wrote; models are measured without --compare");
  return report_from_json(parse_json(text, path), path);
}

}  // namespace miq

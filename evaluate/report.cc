// Schema "miq.eval/1": keys may be added, never renamed.
#include "miq/evaluate/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>

namespace miq {
namespace {

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json parameters_json(const ParameterCount& count) {
  Json by_part = Json::object();
  for (const auto& [part, parameters] : count.by_part) by_part[std::string(part_name(part))] = parameters;
  return {{"total", count.total}, {"nonzero", count.nonzero}, {"by_part", by_part}, {"decoder_linears", count.decoder_linears},
          {"decoder_linear_zeros", count.decoder_linear_zeros}};
}

Json information_json(const MatrixOutcome::Information& information) {
  Json json{{"mean", information.mean}, {"largest", information.largest}, {"within", information.within}, {"between", information.between}};
  if (!information.blocks.empty()) json["blocks"] = information.blocks;
  return json;
}

void add_outcome(Json& entry, const MatrixOutcome& outcome) {
  entry["error"] = finite(outcome.error);
  if (outcome.refined != 0) entry["refined"] = finite(outcome.refined);
  if (outcome.groups > 0)
    entry["groups"] = {{"count", outcome.groups}, {"smallest", outcome.smallest_group}, {"largest", outcome.largest_group}};
  if (outcome.information) entry["mutual_information"] = information_json(*outcome.information);
  if (outcome.fallback) entry["fallback"] = true;
}

// What compression recorded goes to the entry of the same matrix where the other metrics made one.
void add_outcomes(Json& matrices, const StructureFigures& structure) {
  std::map<std::pair<std::int64_t, std::string>, std::size_t> places;
  for (std::size_t i = 0; i < matrices.size(); ++i)
    places[{matrices[i]["layer"].get<std::int64_t>(), matrices[i]["name"].get<std::string>()}] = i;
  for (const MatrixOutcome& outcome : structure.matrices) {
    const auto [place, fresh] = places.try_emplace({outcome.layer, outcome.name}, matrices.size());
    if (fresh) matrices.push_back({{"layer", outcome.layer}, {"name", outcome.name}});
    add_outcome(matrices[place->second], outcome);
  }
}

Json layers_json(const std::vector<LayerOutcome>& layers) {
  Json json = Json::array();
  for (const LayerOutcome& layer : layers) {
    Json& entry = json.emplace_back(Json{{"layer", layer.layer}, {"removed", finite(layer.removed)}});
    if (layer.heads > 0) entry["heads"] = layer.heads;
    if (layer.mlp_width > 0) entry["mlp_width"] = layer.mlp_width;
    if (layer.width > 0) entry["width"] = layer.width;
  }
  return json;
}

// One entry per decoder linear, from whichever of the metrics ran.
Json matrices_json(const ModelReport& model) {
  Json matrices = Json::array();
  if (model.parameters) {
    for (const MatrixCount& matrix : model.parameters->matrices) {
      matrices.push_back({{"layer", matrix.layer},
                          {"name", matrix.name},
                          {"rows", matrix.rows},
                          {"cols", matrix.cols},
                          {"weights", matrix.weights},
                          {"zeros", matrix.zeros}});
    }
  }
  for (std::size_t i = 0; model.size && i < model.size->matrices.size(); ++i) {
    const MatrixBits& bits = model.size->matrices[i];
    if (i >= matrices.size()) matrices.push_back({{"layer", bits.layer}, {"name", bits.name}, {"weights", bits.weights}});
    Json& entry = matrices[i];
    entry["encoding"] = bits.encoding;
    entry["code_bits"] = bits.kept == 0 ? 0.0 : static_cast<double>(bits.code_bits) / static_cast<double>(bits.kept);
    entry["effective_bits"] = bits.weights == 0 ? 0.0 : static_cast<double>(bits.stored_bits) / static_cast<double>(bits.weights);
    entry["kept"] = bits.kept;
    entry["code_bit_count"] = bits.code_bits;
    entry["stored_bit_count"] = bits.stored_bits;
    if (bits.columns_by_bits.empty()) continue;
    Json histogram = Json::object();
    for (const auto& [width, columns] : bits.columns_by_bits) histogram[std::to_string(width)] = columns;
    entry["columns_by_bits"] = histogram;
  }
  if (model.structure) add_outcomes(matrices, *model.structure);
  return matrices;
}

Json macs_json(const MacCount& macs) {
  Json by_part = Json::object();
  for (const auto& [part, count] : macs.by_part) by_part[std::string(part_name(part))] = count;
  const auto products = static_cast<double>(std::max<std::int64_t>(1, macs.products));
  return {{"per_token", macs.per_token()},
          {"products", macs.products},
          {"by_part", by_part},
          {"attention", macs.attention},
          {"attention_length", macs.length},
          {"rotation_share", static_cast<double>(macs.rotations()) / products}};
}

Json generation_json(const GenerationSpeed& speed) {
  Json runs = Json::array();
  for (const GenerationRun& run : speed.runs) {
    runs.push_back({{"batch", run.batch},
                    {"prompt_tokens_per_second", finite(run.prompt_tokens_per_second)},
                    {"tokens_per_second", finite(run.tokens_per_second)},
                    {"ms_per_token", finite(run.ms_per_token)}});
  }
  return {{"prompt", speed.prompt},       {"new_tokens", speed.new_tokens},     {"shortened", speed.shortened}, {"load_seconds", speed.load_seconds},
          {"weight_bytes", speed.weight_bytes}, {"cache_bytes", speed.cache_bytes}, {"runs", runs}};
}

Json perplexity_json(const Perplexity& result) {
  Json window_nll = Json::array();
  for (double nll : result.summary.window_nll) window_nll.push_back(finite(nll));
  Json json{{"value", result.failed() ? Json(nullptr) : finite(result.summary.perplexity)},
            {"mean_nll", result.failed() ? Json(nullptr) : finite(result.summary.mean_nll)},
            {"standard_error", result.failed() ? Json(nullptr) : finite(result.summary.standard_error)},
            {"text_tokens", result.text_tokens},
            {"tokens", result.tokens},
            {"scored_tokens", result.summary.scored},
            {"windows", result.windows},
            {"seqlen", result.seqlen},
            {"protocol", result.protocol},
            {"text_digest", result.text_digest},
            {"source_digest", result.source_digest},
            {"calibrated_on", result.calibrated_on},
            {"window_nll", window_nll}};
  if (result.failed()) json["failure"] = result.failure;
  return json;
}

Json divergence_json(const Divergence& result) {
  Json json{{"reference", result.reference}, {"reference_digest", result.reference_digest}, {"tokens", result.tokens}};
  if (result.failed()) {
    json[result.comparable ? "failure" : "not_comparable"] = result.failure;
    return json;
  }
  const std::pair<const char*, double> figures[] = {{"mean", result.mean},
                                                    {"standard_error", result.standard_error},
                                                    {"median", result.median},
                                                    {"percentile_90", result.percentile_90},
                                                    {"percentile_99", result.percentile_99},
                                                    {"maximum", result.maximum},
                                                    {"top1_agreement", result.same_top},
                                                    {"top1_agreement_error", result.same_top_error},
                                                    {"loss_correlation", result.loss_correlation},
                                                    {"mean_log_ppl_ratio", result.log_ratio},
                                                    {"mean_log_ppl_ratio_error", result.log_ratio_error}};
  for (const auto& [key, value] : figures) json[key] = finite(value);
  return json;
}

Json share_json(const ZeroShotResult& result, const Share& share, bool error) {
  return result.failed() ? Json(nullptr) : finite(error ? share.standard_error : share.value);
}

Json zeroshot_json(const ZeroShotResult& result) {
  Json json{{"acc", share_json(result, result.accuracy, false)},
            {"acc_stderr", share_json(result, result.accuracy, true)},
            {"items", result.items},
            {"choices", result.choices},
            {"path", result.path},
            {"digest", result.digest},
            {"protocol", kZeroShotProtocol}};
  if (result.normalised) {
    json["acc_norm"] = share_json(result, result.accuracy_norm, false);
    json["acc_norm_stderr"] = share_json(result, result.accuracy_norm, true);
  }
  if (!result.item_scores.empty()) {
    Json& items = json["log_likelihoods"] = Json::array();
    for (const std::vector<double>& scores : result.item_scores) {
      Json& item = items.emplace_back(Json::array());
      for (const double score : scores) item.push_back(finite(score));
    }
  }
  if (result.failed()) json["failure"] = result.failure;
  return json;
}

Json conditions_json(const Conditions& conditions) {
  Json json{{"version", conditions.version},         {"torch_version", conditions.torch_version},
          {"device", conditions.device},           {"device_name", conditions.device_name},
          {"dtype", conditions.dtype},             {"threads", conditions.threads}};
  if (conditions.processes > 1) json["processes"] = conditions.processes;
  return json;
}

Json model_json(const ModelReport& model) {
  Json json{{"name", model.name},
            {"path", model.path},
            {"method", model.method_name()},
            {"digest", model.digest},
            {"method_parameters", model.method},
            {"calibration", model.calibration},
            {"source", model.source},
            {"failures", model.failures},
            {"architecture",
             {{"name", model.architecture},
              {"layers", model.layers},
              {"hidden", model.hidden},
              {"vocabulary", model.vocabulary},
              {"max_positions", model.max_positions},
              {"tokenizer", model.tokenizer}}}};
  if (model.parameters) {
    json["parameters"] = parameters_json(*model.parameters);
    json["sparsity"] = model.parameters->sparsity();
  }
  if (model.size) {
    Json by_encoding = Json::object();
    for (const auto& [encoding, bytes] : model.size->bytes_by_encoding) by_encoding[encoding] = bytes;
    json["bytes"] = {{"file", model.size->file_bytes}, {"weights", model.size->weight_bytes}, {"by_encoding", by_encoding}};
    json["bits_per_weight"] = {
        {"code", model.size->code_bits}, {"effective", model.size->effective_bits}, {"model", model.size->model_bits}};
  }
  if (model.parameters || model.size || model.structure) json["matrices"] = matrices_json(model);
  if (model.structure && !model.structure->layers.empty()) json["layers"] = layers_json(model.structure->layers);
  if (model.conditions) json["conditions"] = conditions_json(*model.conditions);
  if (!model.perplexity.empty()) {
    Json& texts = json["perplexity"] = Json::object();
    for (const Perplexity& result : model.perplexity) texts[result.text] = perplexity_json(result);
  }
  if (!model.divergence.empty()) {
    Json& texts = json["divergence"] = Json::object();
    for (const Divergence& result : model.divergence) texts[result.text] = divergence_json(result);
  }
  if (!model.zeroshot.empty()) {
    Json& tasks = json["zeroshot"] = Json::object();
    for (const ZeroShotResult& result : model.zeroshot) tasks[result.task] = zeroshot_json(result);
    const auto mean = mean_accuracy(model.zeroshot, false), mean_norm = mean_accuracy(model.zeroshot, true);
    json["zeroshot_mean"] = {{"acc", mean ? Json(*mean) : Json(nullptr)}, {"acc_norm", mean_norm ? Json(*mean_norm) : Json(nullptr)}};
  }
  if (model.throughput) {
    json["throughput"] = {{"tokens_per_second", model.throughput->tokens_per_second},
                          {"seconds", model.throughput->seconds},
                          {"tokens", model.throughput->tokens},
                          {"seqlen", model.throughput->seqlen},
                          {"synthetic", model.throughput->synthetic}};
  }
  if (model.generation) json["generation"] = generation_json(*model.generation);
  if (model.macs) json["macs"] = macs_json(*model.macs);
  if (model.memory) {
    json["memory"] = {{"peak_bytes", model.memory->peak_bytes}, {"peak_anonymous_bytes", model.memory->peak_anonymous_bytes},
                      {"idle_anonymous_bytes", model.memory->idle_anonymous_bytes}};
  }
  return json;
}

}  // namespace

std::optional<double> mean_accuracy(const std::vector<ZeroShotResult>& results, bool normalised) {
  double sum = 0;
  for (const ZeroShotResult& result : results) {
    if (result.failed()) return std::nullopt;
    sum += (normalised && result.normalised ? result.accuracy_norm : result.accuracy).value;
  }
  return results.empty() ? std::nullopt : std::optional(sum / static_cast<double>(results.size()));
}

std::string ModelReport::method_name() const {
  const auto found = method.find("name");
  if (found != method.end() && found->is_string()) return found->get<std::string>();
  // Other tools' checkpoints do not say what was done to them; many zeros show that something was.
  return parameters && parameters->sparsity() > 0.01 ? "not recorded" : "dense";
}

bool Report::failed() const {
  return std::any_of(models.begin(), models.end(), [](const ModelReport& model) { return !model.failures.empty(); });
}

std::vector<std::string> Report::texts() const {
  std::vector<std::string> names;
  for (const ModelReport& model : models) {
    for (const Perplexity& result : model.perplexity) {
      if (std::find(names.begin(), names.end(), result.text) == names.end()) names.push_back(result.text);
    }
  }
  return names;
}

std::vector<std::string> Report::tasks() const {
  std::vector<std::string> names;
  for (const ModelReport& model : models) {
    for (const ZeroShotResult& result : model.zeroshot) {
      if (std::find(names.begin(), names.end(), result.task) == names.end()) names.push_back(result.task);
    }
  }
  return names;
}

Json report_json(const Report& report) {
  Json models = Json::array();
  for (const ModelReport& model : report.models) models.push_back(model_json(model));
  Json json = conditions_json(report);
  json.update({{"schema", "miq.eval/1"}, {"texts", report.texts()}, {"tasks", report.tasks()}, {"protocol", report.protocol}, {"models", std::move(models)}});
  return json;
}

std::string figure_text(double value, int significant) {
  if (!std::isfinite(value)) return value > 0 ? "inf" : std::isnan(value) ? "nan" : "-inf";
  const double size = std::fabs(value);
  if (size >= 1e9) {
    char text[48];
    std::snprintf(text, sizeof text, "%.*e", significant - 1, value);
    return text;
  }
  const int digits_before =
      size < 1 ? (size == 0 ? 1 : static_cast<int>(std::floor(std::log10(size))) + 1) : static_cast<int>(std::floor(std::log10(size))) + 1;
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", std::clamp(significant - digits_before, 0, 12), value);
  // Thousands separators in the whole part.
  std::string result(text);
  const std::size_t point = std::min(result.find('.'), result.size());
  const std::size_t start = result.front() == '-' ? 1 : 0;
  for (std::size_t i = point; i > start + 3; i -= 3) result.insert(i - 3, ",");
  return result;
}

std::string bytes_text(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return (unit == 0 ? std::to_string(bytes) : figure_text(value, 3)) + " " + kUnits[unit];
}

}  // namespace miq

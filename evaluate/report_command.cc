// A record's key becomes an option by a table. What the table does not know (a record of another version) is said below the command,
// so that a command never looks complete when it is not.
#include "miq/evaluate/report_command.h"

#include <algorithm>
#include <map>
#include <set>

namespace miq {
namespace {

// Keys whose value stands behind the option as it is.
const std::map<std::string, std::string, std::less<>>& plain_options() {
  static const std::map<std::string, std::string, std::less<>> kOptions{
      {"sparsity", "--sparsity"}, {"sparsity_allocation", "--sparsity-allocation"}, {"prune_n", "--prune-n"}, {"prune_m", "--prune-m"},
      {"damping", "--damping"}, {"refine", "--refine"}, {"dead_columns", "--dead-columns"}, {"tune", "--tune"},
      {"tune_epochs", "--tune-epochs"}, {"wbits", "--wbits"}, {"levels", "--levels"}, {"target_avg_bits", "--target-avg-bits"},
      {"target_bpw", "--target-bpw"}, {"bit_method", "--bit-method"}, {"importance_weights", "--importance-weights"}, {"clip", "--clip"},
      {"allocator", "--allocator"}, {"mi_estimator", "--mi-estimator"}, {"clustering", "--clustering"}, {"grouping", "--grouping"},
      {"group_size", "--group-size"}, {"n_groups", "--n-groups"}, {"scale_bits", "--scale-bits"}, {"compute", "--dtype"},
      {"pruning_ratio", "--sparsity"}, {"round_interval", "--round-interval"}, {"removed", "--remove"},
      {"protected_layers", "--protect-layers"}, {"allocation", "--sparsity-allocation"}, {"score", "--removal-score"}};
  return kOptions;
}
// What a run found out, or what is always so.
const std::set<std::string, std::less<>>& silent_keys() {
  static const std::set<std::string, std::less<>> kKeys{"name", "orientation", "actual_ratio", "parameter_ratio", "sliced_head", "base_model", "seed"};
  return kKeys;
}

std::string number_text(const Json& value) { return value.dump(); }

// "a,b,c" for a list of scalars.
std::string option_value(const Json& value) {
  if (value.is_string()) return shell_quoted(value.get<std::string>());
  if (!value.is_array()) return shell_quoted(number_text(value));
  std::string text;
  for (const Json& entry : value) text += (text.empty() ? "" : ",") + (entry.is_string() ? entry.get<std::string>() : number_text(entry));
  return shell_quoted(text);
}

// [{"bits": 4, "layers": [0, 1]}, {"bits": 3, "kind": "down_proj"}] -> --layer-bits 0-1=4 --bits-of down_proj=3
std::string override_options(const Json& overrides) {
  std::string layers, kinds;
  for (const Json& entry : overrides.is_array() ? overrides : Json::array()) {
    if (!entry.is_object() || !entry.contains("bits")) continue;
    const std::string bits = "=" + number_text(entry["bits"]);
    if (entry.contains("kind") && entry["kind"].is_string()) {
      kinds += (kinds.empty() ? "" : ",") + entry["kind"].get<std::string>() + bits;
    } else if (entry.contains("layers") && entry["layers"].is_array() && entry["layers"].size() == 2) {
      layers += (layers.empty() ? "" : ",") + number_text(entry["layers"][0]) + "-" + number_text(entry["layers"][1]) + bits;
    }
  }
  return (layers.empty() ? "" : " --layer-bits " + shell_quoted(layers)) + (kinds.empty() ? "" : " --bits-of " + shell_quoted(kinds));
}

bool is_true(const Json& value) { return value.is_boolean() && value.get<bool>(); }

// Options of one key of the method's record; false when it is not known.
bool add_method_option(std::string& command, const std::string& key, const Json& value) {
  if (silent_keys().contains(key)) return true;
  if (const auto plain = plain_options().find(key); plain != plain_options().end()) {
    if (value.is_object() || value.is_null() || value.is_boolean()) return false;
    command += " " + plain->second + " " + option_value(value);
  } else if (key == "true_sequential") {
    command += is_true(value) ? " --true-sequential" : " --no-true-sequential";
  } else if (key == "act_order" || key == "static_groups") {
    if (is_true(value)) command += key == "act_order" ? " --act-order" : " --static-groups";
  } else if (key == "channel_scaling") {
    command += value.is_number() ? " --channel-scaling=" + number_text(value) : " --channel-scaling";
  } else if (key == "compensated") {
    command += is_true(value) ? " --compensate on" : " --compensate off";
  } else if (key == "overrides") {
    command += override_options(value);
  } else {
    return false;
  }
  return true;
}

std::string text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

void add_calibration(std::string& command, const Json& calibration) {
  const std::pair<const char*, const char*> kOptions[] = {
      {"documents", "--documents"}, {"sampling", "--sampling"}, {"windows", "--nsamples"}, {"seqlen", "--seqlen"}};
  for (const auto& [key, option] : kOptions) {
    if (const auto found = calibration.find(key); found != calibration.end() && (found->is_string() || found->is_number()))
      command += std::string(" ") + option + " " + option_value(*found);
  }
}

// Upper-case placeholder of a text: "wikitext2" -> "WIKITEXT2_FILE".
std::string placeholder(const std::string& name) {
  std::string text;
  for (char c : name) text += (c >= 'a' && c <= 'z') ? static_cast<char>(c - 32) : ((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) ? c : '_';
  return (text.empty() ? "TEXT" : text) + "_FILE";
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return text;
}

// What the model was compared with; null: with nothing.
const Divergence* compared(const ModelReport& model) {
  const auto found = std::find_if(model.divergence.begin(), model.divergence.end(), [](const Divergence& result) { return !result.failed(); });
  return found == model.divergence.end() ? nullptr : &*found;
}

std::string evaluation_command(const Report& report, const ModelReport& model) {
  const Conditions& conditions = report.conditions_of(model);
  std::string command = "run-eval " + shell_quoted(model.name) + "=MODEL", texts;
  const Perplexity* shown = nullptr;
  std::int64_t windows = 0;
  for (const Perplexity& result : model.perplexity) {
    if (result.failed()) continue;
    command += " --dataset " + shell_quoted(result.text) + "=" + placeholder(result.text);
    shown = &result;
    windows = std::max(windows, result.windows);
  }
  if (shown != nullptr) {
    command += " --protocol " + shell_quoted(shown->protocol) + " --seqlen " + std::to_string(shown->seqlen) + " --windows " +
               std::to_string(windows);
  }
  if (const Divergence* with = compared(model)) command += " --reference " + shell_quoted(with->reference) + "=REFERENCE";
  for (const ZeroShotResult& result : model.zeroshot) command += " --tasks " + shell_quoted(result.task) + "=" + placeholder(result.task);
  return command + " --dtype " + shell_quoted(conditions.dtype) + " --threads " + std::to_string(conditions.threads);
}

}  // namespace

std::string shell_quoted(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || std::string_view("._-+=,:/%@").find(c) != std::string_view::npos;
  });
  if (plain && text.front() != '-' && text.front() != '=') return text;
  std::string quoted = "'";
  for (char c : one_line(text)) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string compress_command(const Json& method, const Json& calibration) {
  const std::string name = method.is_object() ? text_of(method, "name") : "";
  // Every method of ours records what it computed in; other tools' records do not.
  if (name.empty() || !method.contains("compute")) return {};
  const std::string text = text_of(calibration, "text_name");
  std::string command = "miq-compress SOURCE " + (text.empty() ? std::string("TEXT_FILE") : shell_quoted(text) + "=" + placeholder(text)) +
                        " -o MODEL --method " + shell_quoted(name), unknown;
  for (const auto& [key, value] : method.items()) {
    if (!add_method_option(command, key, value)) unknown += (unknown.empty() ? "" : ", ") + one_line(key + " " + value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  add_calibration(command, calibration);
  const Json& seeded = method.contains("seed") ? method : calibration;
  if (const auto seed = seeded.find("seed"); seed != seeded.end() && seed->is_number_integer()) command += " --seed " + number_text(*seed);
  return command + (unknown.empty() ? "" : "\n# recorded, but no option of this version: " + unknown);
}

std::vector<std::string> reproduce_commands(const Report& report, const ModelReport& model) {
  std::vector<std::string> lines;
  const std::string compress = compress_command(model.method, model.calibration);
  if (!compress.empty()) {
    const std::size_t end = compress.find('\n');  // a remark may follow
    lines.push_back(compress.substr(0, end));
    if (end != std::string::npos) lines.push_back(compress.substr(end + 1));
    const std::string source = text_of(model.source, "digest"), format = text_of(model.source, "format");
    lines.push_back("# SOURCE: the model it was made from" + (format.empty() ? "" : ", read from " + one_line(format)) +
                    (source.empty() ? "; its digest is not recorded" : ", weights digest " + one_line(source)));
    if (const std::string digest = text_of(model.calibration, "source_digest"); !digest.empty())
      lines.push_back("# " + placeholder(text_of(model.calibration, "text_name")) + ": file digest " + one_line(digest));
  }
  lines.push_back(evaluation_command(report, model));
  const auto digest = [](const std::string& known) { return "weights digest " + (known.empty() ? std::string("not recorded") : one_line(known)); };
  lines.push_back("# MODEL: " + digest(model.digest));
  if (const Divergence* with = compared(model)) lines.push_back("# REFERENCE: " + digest(with->reference_digest));
  for (const Perplexity& result : model.perplexity) {
    const std::string line = "# " + placeholder(result.text) + ": file digest " + one_line(result.source_digest);
    if (!result.failed() && std::find(lines.begin(), lines.end(), line) == lines.end()) lines.push_back(line);
  }
  for (const ZeroShotResult& result : model.zeroshot) lines.push_back("# " + placeholder(result.task) + ": questions digest " + one_line(result.digest));
  return lines;
}

}  // namespace miq

// inspect-checkpoint FILE: what a checkpoint is, how it is built, what was done to it, whether it is whole.
#include <map>

#include "miq/converters/open_model.h"
#include "miq/evaluate/count.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/size.h"
#include "miq/formats/container.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::string path;
  bool verify = false, tensors = false, matrices = false, json = false;
};

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string fixed(double value, int decimals) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

// Names and texts come from files: nothing in them may move the cursor.
std::string printable(std::string text) {
  for (char& c : text) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return text;
}

std::string row(std::string_view what, const std::string& value) {
  std::string line(what);
  line.resize(std::max<std::size_t>(line.size() + 1, 16), ' ');
  return line + printable(value) + "\n";
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

const SourceKind* kind_of(const std::string& path) {
  for (const SourceKind& kind : source_kinds()) {
    if (kind.recognises(path)) return &kind;
  }
  return nullptr;
}

// "3 layers alike" is said once: sizes differ by layer only in structured pruning.
std::string layers_text(const Config& config) {
  std::string text = std::to_string(config.layers.size()) + " layers";
  const auto one = [](const LayerConfig& layer) {
    return std::to_string(layer.heads) + " heads (" + std::to_string(layer.kv_heads) + " key/value) of " + std::to_string(layer.head_dim) +
           ", MLP " + std::to_string(layer.mlp_width);
  };
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    if (i == 0) {
      text += ", " + one(config.layers[0]);
    } else if (config.layers[i] != config.layers[i - 1]) {
      text += "; from layer " + std::to_string(i) + " " + one(config.layers[i]);
    }
  }
  return text;
}

std::string structure_text(const Model& model, const std::string& kind) {
  const Config& config = model.config;
  std::string text = row("kind", kind) + row("name", model.name);
  text += row("architecture", config.architecture + ", hidden size " + std::to_string(config.hidden) + ", vocabulary " +
                                  std::to_string(config.vocabulary) + ", at most " + std::to_string(config.max_positions) +
                                  " positions, head " + (config.tied_head ? "tied" : "of its own"));
  text += row("", layers_text(config)) + row("tokenizer", model.tokenizer ? model.tokenizer->kind() : "none");
  text += row("method", model.method.empty() ? "none recorded" : dump(model.method));
  if (!model.calibration.empty()) text += row("calibration", dump(model.calibration));
  if (!model.source.empty()) text += row("source", dump(model.source));
  return text;
}

std::string figures_text(const ParameterCount& count, const SizeFigures& size) {
  std::string text = row("parameters", std::to_string(count.total) + ", not zero " + std::to_string(count.nonzero)), parts, encodings;
  for (const auto& [part, parameters] : count.by_part)
    parts += (parts.empty() ? "" : ", ") + std::string(part_name(part)) + " " + std::to_string(parameters);
  for (const auto& [encoding, bytes] : size.bytes_by_encoding)
    encodings += (encodings.empty() ? "" : ", ") + encoding + " " + bytes_text(bytes);
  text += row("  by part", parts);
  text += row("bytes", bytes_text(size.file_bytes) + " on disk, weights " + bytes_text(size.weight_bytes) + " (" + encodings + ")");
  text += row("bits a weight", fixed(size.code_bits, 3) + " code, " + fixed(size.effective_bits, 3) +
                                   " effective in the decoder linears; whole model " + fixed(size.model_bits, 3));
  return text + row("sparsity", fixed(100 * count.sparsity(), 2) + " % of the decoder linears (" +
                                    std::to_string(count.decoder_linear_zeros) + " of " + std::to_string(count.decoder_linears) + ")");
}

std::string matrices_text(const ParameterCount& count, const SizeFigures& size) {
  std::string text = "\nlayer  matrix      shape          encoding  code bits  eff. bits   zeros  channels by width\n";
  for (std::size_t i = 0; i < count.matrices.size() && i < size.matrices.size(); ++i) {
    const MatrixCount& matrix = count.matrices[i];
    const MatrixBits& bits = size.matrices[i];
    std::string widths;
    for (const auto& [width, columns] : bits.columns_by_bits)
      widths += (widths.empty() ? "" : " ") + std::to_string(width) + ":" + std::to_string(columns);
    char line[200];
    std::snprintf(line, sizeof line, "%5lld  %-10.10s  %-13s  %-8s  %9.3f  %9.3f  %5.1f%%  %.80s\n", static_cast<long long>(matrix.layer),
                  printable(matrix.name).c_str(), shape_text({matrix.rows, matrix.cols}).c_str(), bits.encoding.c_str(),
                  bits.kept == 0 ? 0.0 : static_cast<double>(bits.code_bits) / static_cast<double>(bits.kept),
                  static_cast<double>(bits.stored_bits) / static_cast<double>(std::max<std::uint64_t>(1, bits.weights)),
                  100.0 * static_cast<double>(matrix.zeros) / static_cast<double>(std::max<std::int64_t>(1, matrix.weights)),
                  widths.c_str());
    text += line;
  }
  return text;
}

std::string tensors_text(const Model& model) {
  std::string text = "\n";
  for (const auto& [name, tensor] : model.tensors) {
    text += printable(name) + "  " + std::string(dtype_name(tensor.dtype)) + " " + shape_text(tensor.shape) + "  " +
            std::string(encoding_name(tensor.encoding)) + "  " + bytes_text(tensor.stored_bytes()) + "\n";
  }
  return text;
}

// The evaluation report's JSON of this model, without measurements that need a text.
std::string json_text(const Model& model, const std::string& path, const ParameterCount& count, const SizeFigures& size, ThreadPool& pool) {
  Report report;
  ModelReport entry;
  entry.name = model.name;
  entry.path = path;
  entry.digest = weights_digest(model, pool);
  entry.architecture = model.config.architecture;
  entry.layers = static_cast<std::int64_t>(model.config.layers.size());
  entry.hidden = model.config.hidden;
  entry.vocabulary = model.config.vocabulary;
  entry.max_positions = model.config.max_positions;
  entry.tokenizer = model.tokenizer ? model.tokenizer->kind() : "none";
  entry.method = model.method;
  entry.calibration = model.calibration;
  entry.source = model.source;
  entry.parameters = count;
  entry.size = size;
  report.models.push_back(entry);
  Json json = report_json(report).at("models").at(0);
  json["statistics"] = model.statistics;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ExitCode inspect(const Options& options, Session& session) {
  const SourceKind* kind = kind_of(options.path);
  const Model model = open_model(options.path);
  std::string verified;
  if (options.verify) {
    if (kind != nullptr && kind->name == "miq") {
      verify_container(options.path);
      verified = "every checksum is right";
    } else {
      verified = "structure only: this kind carries no checksums";
    }
  }
  const ParameterCount count = count_parameters(model, session.pool());
  const SizeFigures size = measure_size(model, options.path, session.pool());
  if (options.json) {
    session.print(json_text(model, options.path, count, size, session.pool()));
    return ExitCode::Done;
  }
  std::string text = structure_text(model, kind == nullptr ? "unknown" : std::string(kind->description)) + figures_text(count, size);
  text += row("weights digest", weights_digest(model, session.pool()));
  if (!verified.empty()) text += row("verified", verified);
  if (options.matrices) text += matrices_text(count, size);
  if (options.tensors) text += tensors_text(model);
  session.print(text);
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("checkpoint", options.path, ".miq, GGUF, Hugging Face folder")->required();
  app.add_flag("--verify", options.verify,
               "check every checksum of a .miq container; the first wrong one is named and the exit status is 1");
  app.add_flag("--matrices", options.matrices, "a line for each linear of the decoder layers: bits, zeros, channels by width");
  app.add_flag("--tensors", options.tensors, "a line for each stored tensor");
  app.add_flag("--json", options.json, "everything as JSON, statistics of the method included");
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(
      argc, argv,
      {"inspect-checkpoint", "Says what a checkpoint is: kind, structure, method, bits, sparsity. Nothing in it is executed.",
       [&](CLI::App& app) { declare(app, options); }, [&](Session& session) { return inspect(options, session); },
       "Example:\n  inspect-checkpoint mixed.miq --verify --matrices"});
}

// inspect-checkpoint FILE: what a checkpoint is, how it is built, what was done to it, whether it is whole; or,
// with --diff, how two checkpoints differ.
#include <filesystem>
#include <map>
#include <sstream>

#include "miq/converters/compare_models.h"
#include "miq/converters/miq_model.h"
#include "miq/converters/open_model.h"
#include "miq/converters/recognise.h"
#include "miq/evaluate/count.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/size.h"
#include "miq/formats/container.h"
#include "miq/formats/mapped_file.h"
#include "miq/formats/torch_file.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/inspect_file.h"
#include "miq/tools/inspect_model.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::vector<std::string> paths;
  bool verify = false, matrices = false, tensors = false, json = false, diff = false, guess = false;
};

std::string fixed(double value, int decimals) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// Everything that is said, as JSON: the evaluation report's entry of this model (without measurements that need a
// text), and what only a look at the file shows. The text is made from it.
struct Findings {
  OpenedCheckpoint opened;
  ParameterCount count;
  SizeFigures size;
  Json json;
};

Findings examine(OpenedCheckpoint opened, const std::string& path, const Options& options, ThreadPool& pool) {
  Findings found{std::move(opened), {}, {}, {}};
  const Model& model = found.opened.model;
  found.count = count_parameters(model, pool);
  found.size = measure_size(model, path, pool);
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
  entry.parameters = found.count;
  entry.size = found.size;
  report.models.push_back(entry);
  found.json = report_json(report).at("models").at(0);
  found.json.update({{"schema", "miq.inspect/1"},
                     {"kind", found.opened.kind->name},
                     {"kind_description", found.opened.kind->description},
                     {"family", model.config.architecture},
                     {"config", model.config.to_json()},
                     {"statistics", model.statistics},
                     {"structure", model_structure(model)},
                     {"pickles", pickle_facts(path)},
                     {"notes", found.opened.notes},
                     {"restored", found.opened.restored}});
  // What a method of ours or of a reader recorded needs no guess.
  if (model.method.empty() || options.guess) found.json["guess"] = recognise(model, pool, path);
  return found;
}

std::string method_text(const Json& method, const Json& json) {
  std::string text;
  if (!method.empty()) {
    text += row("method", method.value("name", "") + ", as recorded");
    for (const auto& [key, value] : method.items()) {
      if (key != "name") text += row("  " + key, value.is_string() ? value.get<std::string>() : dump(value));
    }
  }
  if (json.contains("guess")) {
    const Json& guess = json["guess"];
    text += row(text.empty() ? "method" : "guess", guess.value("guess", "") + (text.empty() ? " (a guess; none is recorded)" : ""));
    for (const Json& line : guess.value("evidence", Json::array())) text += row("  because", line.get<std::string>());
    for (const Json& line : guess.value("warnings", Json::array())) text += row("  warning", line.get<std::string>());
  }
  return text;
}

// {"a": 1, "b": {"c": "x"}} -> "a 1, b (c x)": recorded facts as people read them.
std::string facts(const Json& object) {
  std::string text;
  for (const auto& [key, value] : object.items()) {
    if (value.empty()) continue;
    text += (text.empty() ? "" : ", ") + key + " " + (value.is_object() ? "(" + facts(value) + ")" : value.is_string() ? value.get<std::string>() : dump(value));
  }
  return text;
}

// One row a fact.
std::string fact_rows(const std::string& what, const Json& object) {
  std::string text;
  for (const auto& [key, value] : object.items()) {
    if (value.empty()) continue;
    const std::string shown = value.is_object() ? facts(value) : value.is_string() ? value.get<std::string>() : dump(value);
    text += row(text.empty() ? what : "", key + " " + shown);
  }
  return text;
}

std::string model_text(const Findings& found) {
  const Model& model = found.opened.model;
  const Config& config = model.config;
  const Json& json = found.json;
  std::string text = row("kind", json.at("kind_description").get<std::string>()) + row("name", model.name);
  text += row("family", config.architecture + ", " + std::to_string(config.layers.size()) + " layers, hidden size " + std::to_string(config.hidden) + ", vocabulary " +
                            std::to_string(config.vocabulary) + ", at most " + std::to_string(config.max_positions) + " positions, head " +
                            (config.tied_head ? "tied" : "of its own"));
  text += row("tokenizer", model.tokenizer ? model.tokenizer->kind() + ", " + std::to_string(model.tokenizer->vocabulary()) + " ids" : "none");
  text += method_text(model.method, json);
  if (!model.calibration.empty()) text += fact_rows("calibration", model.calibration);
  if (!model.source.empty()) text += fact_rows("source", model.source);
  for (const std::string& note : found.opened.notes) text += row("note", note);
  if (found.opened.restored) text += row("note", "method and encodings are those of the folder's miq.sidecar");
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

// Checksums where the kind has them; says what was checked. Throws for the first that is wrong.
std::string verify(const OpenedCheckpoint& opened, const std::string& path) {
  if (opened.kind->name == "miq") {
    verify_container(path);
    return "every checksum is right";
  }
  if (!pickle_facts(path).empty() && !std::filesystem::is_directory(path)) {
    open_torch_file(path).verify();
    return "every checksum of the archive is right";
  }
  return "structure only: this kind carries no checksums";
}

// Every damaged chunk, where more than the first can be told.
void name_damage(const std::string& path, Session& session) {
  try {
    for (const DamagedChunk& chunk : damaged_chunks(map_file(path), path)) {
      session.warn("damaged: " + chunk.what + ", " + std::to_string(chunk.length) + " bytes at byte " + std::to_string(chunk.offset));
    }
  } catch (const FormatError&) {  // the header or the checksums themselves, as the error says
  }
}

// A file that is no model is still a file: what it holds, and why it is none.
ExitCode inspect_raw(const std::string& path, const std::string& reason, const Options& options, Session& session) {
  Json listing = file_listing(path);
  if (listing.is_null()) throw Error(reason);
  if (options.verify && listing.contains("contents")) open_torch_file(path).verify();
  const Json pickles = pickle_facts(path);
  if (options.json) {
    listing.update({{"schema", "miq.inspect/1"}, {"no_model", reason}, {"pickles", pickles}});
    session.print(listing.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    session.print(row("no model", reason) + listing_text(listing, options.tensors) + pickle_text(pickles));
  }
  return ExitCode::Done;
}

ExitCode inspect(const Options& options, Session& session) {
  const std::string path = checkpoint_path(options.paths.at(0));
  OpenedCheckpoint opened;
  try {
    opened = open_checkpoint(path);
  } catch (const Error& error) {
    if (is_miq(path)) {  // a damaged container reads as a safetensors file, and is none to trust
      if (options.verify) name_damage(path, session);
      throw;
    }
    return inspect_raw(path, error.what(), options, session);
  }
  std::string verified = options.verify ? verify(opened, path) : "";
  Findings found = examine(std::move(opened), path, options, session.pool());
  if (options.json) {
    if (options.verify) found.json["verified"] = verified;
    session.print(found.json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    return ExitCode::Done;
  }
  std::string text = model_text(found) + figures_text(found.count, found.size) + row("weights digest", found.json.at("digest").get<std::string>());
  if (!verified.empty()) text += row("verified", verified);
  text += structure_tree(found.json.at("structure"));
  if (options.matrices) text += matrices_text(found.count, found.size);
  if (options.tensors) text += tensors_text(found.opened.model);
  session.print(text + pickle_text(found.json.at("pickles")));
  return ExitCode::Done;
}

// As diff does: 0 nothing differs, 1 something does. An error has a message on stderr beside its 1.
ExitCode compare(const Options& options, Session& session) {
  const OpenedCheckpoint a = open_checkpoint(checkpoint_path(options.paths.at(0))), b = open_checkpoint(checkpoint_path(options.paths.at(1)));
  Json comparison = compare_models(a.model, b.model, session.pool());
  if (options.json) {
    comparison.update({{"a", options.paths[0]}, {"b", options.paths[1]}});
    session.print(comparison.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    session.print(row("a", options.paths[0] + ": " + std::string(a.kind->description) + ", " + a.model.name) +
                  row("b", options.paths[1] + ": " + std::string(b.kind->description) + ", " + b.model.name) + compare_text(comparison, options.tensors ? 0 : 40));
  }
  return comparison.at("equal") == true ? ExitCode::Done : ExitCode::Failed;
}

ExitCode run(const Options& options, Session& session) {
  if (options.diff != (options.paths.size() == 2)) {
    throw UsageError(options.diff ? "--diff compares two checkpoints: give both" : "one checkpoint at a time; --diff compares two");
  }
  return options.diff ? compare(options, session) : inspect(options, session);
}

void declare(CLI::App& app, Options& options) {
  app.add_option("checkpoint", options.paths, "any checkpoint that convert-checkpoint reads: a path, or a name in the local Hugging Face cache; two with --diff")->required()->expected(1, 2);
  app.add_flag("--verify", options.verify, "check every checksum of a .miq container or a zip; all damaged parts of a container are named, the first wrong file of a zip, and the exit status is 1");
  app.add_flag("--diff", options.diff, "how two checkpoints differ, tensor by tensor; exit status 0 when nothing does, 1 when something does");
  app.add_flag("--guess", options.guess, "guess the method from the weights even where one is recorded");
  app.add_flag("--matrices", options.matrices, "a line for each linear of the decoder layers: bits, zeros, channels by width");
  app.add_flag("--tensors", options.tensors, "a line for each stored tensor; with --diff, every difference");
  app.add_flag("--json", options.json, "everything as JSON, statistics of the method included; see the manual page for its keys");
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(
      argc, argv,
      {"inspect-checkpoint",
       "Says what a checkpoint is: kind, family, structure, method, bits, sparsity, and what a pickle in it would have run.\n"
       "Nothing in it is executed.",
       [&](CLI::App& app) { declare(app, options); }, [&](Session& session) { return run(options, session); },
       "Examples:\n  inspect-checkpoint mixed.miq --verify --matrices\n  inspect-checkpoint --diff dense.miq mixed.miq"});
}

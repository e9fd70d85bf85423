// convert-checkpoint SOURCE -o OUT: any checkpoint that the suite reads, as a container or as a folder for
// transformers. open_checkpoint -> (cast) -> encode_model -> save_model, or write_hugging_face_folder.
#include <filesystem>

#include "miq/converters/encode.h"
#include "miq/converters/hugging_face_writer.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/report.h"
#include "miq/evaluate/size.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/cast.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, output, name, to = "miq", dtype = "keep", encode = "auto";
  bool encode_given = false, force = false, json = false;
  std::uint64_t shard_bytes = HuggingFaceOptions().shard_bytes;
};

std::optional<DType> wanted_type(const Options& options) {
  return options.dtype == "keep" ? std::nullopt : dtype_from_name(options.dtype);
}

// A packed float32 matrix rounded afterwards is the same codes decoded to the narrower type; what else is
// encoded becomes dense.
void cast_tensors(Model& model, DType dtype, ThreadPool& pool) {
  std::vector<std::pair<const std::string*, Tensor*>> jobs;
  for (auto& [name, tensor] : model.tensors) {
    if (tensor.dtype != dtype) jobs.emplace_back(&name, &tensor);
  }
  pool.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t i) {
    const auto& [name, tensor] = jobs[static_cast<std::size_t>(i)];
    const Blob data = cast_elements(decode(*tensor, *name), tensor->dtype, dtype, "tensor '" + *name + "'");
    if (tensor->encoding == Encoding::Packed && tensor->dtype == DType::F32) {
      tensor->dtype = dtype;
    } else {
      *tensor = dense_tensor(dtype, tensor->shape, data);
    }
  });
  if (!jobs.empty()) model.source["cast"] = dtype_name(dtype);
}

// Other tools' endings promise their formats; what is written is a container all the same.
void warn_of_foreign_ending(const std::string& output, Session& session) {
  for (const char* ending : {".bin", ".pt", ".pth", ".safetensors", ".gguf", ".ckpt"}) {
    if (output.ends_with(ending)) {
      session.warn(output + " will be a .miq container whatever its ending says: only miq, and any safetensors reader, opens it. --to hf writes a folder for transformers");
    }
  }
}

Json convert_to_miq(OpenedCheckpoint& opened, const Options& options, Session& session) {
  Model& model = opened.model;
  const auto progress = session.progress_function();
  if (const auto dtype = wanted_type(options)) cast_tensors(model, *dtype, session.pool());
  Json encoding = Json::object();
  // What a folder of ours brought back is already encoded as its container was.
  if (!opened.restored || options.encode_given) {
    session.progress().start("encoding");
    encoding = encode_model(model, encode_policy(options.encode), session.pool(), progress);
  }
  session.progress().start("writing");
  save_model(model, options.output);
  return {{"bytes", checkpoint_bytes(options.output)}, {"encoding", std::move(encoding)}};
}

Json convert_to_hugging_face(OpenedCheckpoint& opened, const Options& options, Session& session) {
  HuggingFaceOptions settings;
  settings.dtype = wanted_type(options);
  settings.shard_bytes = options.shard_bytes;
  settings.force = options.force;
  session.progress().start("writing");
  HuggingFaceExport written = write_hugging_face_folder(opened.model, options.output, settings, session.pool(), session.progress_function());
  for (std::string& note : written.notes) opened.notes.push_back(std::move(note));
  return {{"bytes", written.bytes}, {"shards", written.shards}};
}

// One line of facts after another: what was found, what was made of it.
std::string summary_text(const Json& summary, const OpenedCheckpoint& opened) {
  const auto text = [&](const char* key) { return summary.at(key).get<std::string>(); };
  std::string out = "found: " + text("kind") + ", " + text("name") + ", " + text("architecture") + ", " + summary.at("layers").dump() + " layers, " +
                    summary.at("parameters").dump() + " parameters, " + bytes_text(summary.at("source_bytes").get<std::uint64_t>()) +
                    (opened.model.method.contains("name") ? ", method " + opened.model.method["name"].dump() : "") + "\n";
  if (summary.at("result").contains("encoding") && !summary.at("result").at("encoding").empty()) out += encode_text(summary.at("result").at("encoding"));
  out += "wrote: " + text("output") + ", " + bytes_text(summary.at("result").at("bytes").get<std::uint64_t>());
  if (const auto shards = summary.at("result").find("shards"); shards != summary.at("result").end() && *shards > 1) out += " in " + shards->dump() + " files";
  if (opened.restored) out += "; method and encodings brought back from the folder's miq.sidecar";
  return out + "\n";
}

ExitCode convert(const Options& options, Session& session) {
  if (options.to == "miq") {
    AtomicFile{options.output};  // throws where it cannot be written, before any work; leaves nothing
    warn_of_foreign_ending(options.output, session);
    if (options.force) throw UsageError("--force belongs to --to hf: a container is always replaced, whole and at once");
  }
  const std::string source = checkpoint_path(options.source);
  session.progress().start("reading");
  OpenedCheckpoint opened = open_checkpoint(source);
  Model& model = opened.model;
  if (!options.name.empty()) model.name = options.name;
  if (!opened.restored && model.source.value("format", "miq") != "miq") model.source["digest"] = weights_digest(model, session.pool());

  std::uint64_t weights = 0;
  for (const auto& [name, tensor] : model.tensors) weights += static_cast<std::uint64_t>(tensor.elements());
  Json summary{{"schema", "miq.convert/1"},
               {"source", options.source},
               {"kind", opened.kind->description},
               {"name", model.name},
               {"architecture", model.config.architecture},
               {"layers", model.config.layers.size()},
               {"parameters", weights},
               {"source_bytes", checkpoint_bytes(source)},
               {"output", options.output},
               {"to", options.to}};
  summary["result"] = options.to == "hf" ? convert_to_hugging_face(opened, options, session) : convert_to_miq(opened, options, session);
  summary["method"] = model.method;
  summary["restored"] = opened.restored;
  summary["notes"] = opened.notes;
  for (const std::string& note : opened.notes) session.warn(note);
  session.print(options.json ? summary.dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : summary_text(summary, opened));
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("source", options.source, "checkpoint to read: a path, or a name such as org/model in the local Hugging Face cache")->required();
  app.add_option("-o,--output", options.output, "container or folder to write")->required();
  app.add_option("--to", options.to, "miq: a container; hf: a folder that transformers loads")->check(CLI::IsMember({"miq", "hf"}))->capture_default_str();
  app.add_option("--name", options.name, "name of the model in reports (default: the source's own)");
  app.add_option("--dtype", options.dtype, "type of the weights: keep, or rounded to F32, F16, BF16")
      ->transform(CLI::IsMember({"keep", "F32", "F16", "BF16"}, CLI::ignore_case))
      ->capture_default_str();
  app.add_option("--encode", options.encode,
                 "with --to miq: auto: quantized matrices as codes, the rest in the fewest bytes; "
                 "lossless: bit masks and zstd alone; dense: every tensor as it is")
      ->check(CLI::IsMember({"auto", "dense", "lossless"}))
      ->each([&](const std::string&) { options.encode_given = true; })
      ->capture_default_str();
  app.add_option("--shard-size", options.shard_bytes, "with --to hf: bytes of tensors in one file at most, such as 500MB or 2GiB (default 5GB)")
      ->transform(CLI::AsSizeValue(true));
  app.add_flag("--force", options.force, "with --to hf: replace a folder that holds another tool's model");
  app.add_flag("--json", options.json, "the summary as JSON");
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(argc, argv,
                     {"convert-checkpoint",
                      "Packages a checkpoint into a self-describing .miq container, or writes it as a folder for transformers, without loss.\n"
                      "The kind of SOURCE is found by content; inspect-checkpoint says what it is. Nothing in it is executed.",
                      [&](CLI::App& app) { declare(app, options); },
                      [&](Session& session) { return convert(options, session); },
                      "Examples:\n"
                      "  convert-checkpoint models/SmolLM2-135M -o smollm2.miq\n"
                      "  convert-checkpoint small.miq -o small-hf --to hf --dtype BF16 --shard-size 2GB"});
}

// convert-checkpoint SOURCE -o OUT: any checkpoint that the suite reads, as a container or as a folder for
// transformers. open_checkpoint -> (cast) -> encode_model -> save_model, or write_hugging_face_folder.
#include <filesystem>

#include "miq/converters/hugging_face_writer.h"
#include "miq/converters/open_model.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/convert.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, output, name, base_model, to = "miq", dtype = "keep", encode = "auto";
  bool encode_given = false, force = false, json = false;
  std::uint64_t shard_bytes = HuggingFaceOptions().shard_bytes;
};

std::optional<DType> wanted_type(const Options& options) {
  return options.dtype == "keep" ? std::nullopt : dtype_from_name(options.dtype);
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

ExitCode convert(const Options& options, Session& session) {
  if (options.to == "miq") {
    prepare_container(options.output, session);
    if (options.force) throw UsageError("--force belongs to --to hf: a container is always replaced, whole and at once");
  }
  const std::string source = checkpoint_path(options.source);
  session.progress().start("reading");
  OpenedCheckpoint opened = open_checkpoint(source, {options.base_model.empty() ? "" : checkpoint_path(options.base_model)});
  if (!options.name.empty()) opened.model.name = options.name;
  Json summary = start_summary(opened, options.source, source, options.output, session);
  summary["to"] = options.to;
  // What a folder of ours brought back is already encoded as its container was.
  const std::string encode = opened.restored && !options.encode_given ? "" : options.encode;
  summary["result"] = options.to == "hf" ? convert_to_hugging_face(opened, options, session) : write_container(opened.model, options.output, wanted_type(options), encode, session,
                                                         summary.at("weights_digest").get<std::string>());
  summary["notes"] = opened.notes;
  for (const std::string& note : opened.notes) session.warn(note);
  session.print(options.json ? summary.dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : summary_text(summary));
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("source", options.source, "checkpoint to read: a path, or a name such as org/model in the local Hugging Face cache")->required();
  app.add_option("-o,--output", options.output, "container or folder to write")->required();
  app.add_option("--to", options.to, "miq: a container; hf: a folder that transformers loads")->check(CLI::IsMember({"miq", "hf"}))->capture_default_str();
  app.add_option("--name", options.name, "name of the model in reports (default: the source's own)");
  app.add_option("--base-model", options.base_model, "folder with the config.json and tokenizer that a PyTorch file lacks (default: the file's own); its weights are not read");
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

// convert-slicegpt: a model sliced by SliceGPT as a container that runs on its own. convert-checkpoint reads
// the same files; here the pieces can lie apart, and what a missing json said can be given.
#include <filesystem>

#include "miq/converters/slicegpt.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/convert.h"

namespace miq {
namespace {

struct Options {
  SliceGptSource source;
  double sparsity = 0;
  std::int64_t round_interval = 0;
  std::string output, name, encode = "auto";
  bool sparsity_given = false, interval_given = false, json = false;
};

ExitCode convert(const Options& options, Session& session) {
  prepare_container(options.output, session);
  SliceGptSource source = options.source;
  if (options.sparsity_given) source.sparsity = options.sparsity;
  if (options.interval_given) source.round_interval = options.round_interval;
  if (!source.base_model.empty()) source.base_model = checkpoint_path(source.base_model);
  session.progress().start("reading");
  OpenedCheckpoint opened{open_slicegpt(source), nullptr, false, {}};
  if (!options.name.empty()) opened.model.name = options.name;
  Json summary = start_summary(opened, source.path, source.path, options.output, session);
  summary["result"] = write_container(opened.model, options.output, std::nullopt, options.encode, session);
  summary["notes"] = opened.notes;
  session.print(options.json ? summary.dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : summary_text(summary));
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("--slicegpt-model", options.source.path,
                 "NAME_SPARSITY.pt as SliceGPT saved it, a folder with one, or a pickle of the whole module")
      ->required();
  app.add_option("--base-model", options.source.base_model,
                 "folder, or name in the local Hugging Face cache, of the model that was sliced: its config.json and tokenizer are read, "
                 "never its weights "
                 "(default: the file's own folder)");
  app.add_option("-o,--output", options.output, "container to write")->required();
  app.add_option("--slicing-config", options.source.json, "the .json that SliceGPT wrote (default: beside the .pt, where it is there)");
  app.add_option("--sparsity", options.sparsity, "share of the width that was cut away (default: the number in the file's name)")
      ->check(CLI::Range(0.0, 1.0))
      ->each([&](const std::string&) { options.sparsity_given = true; });
  app.add_option("--round-interval", options.round_interval,
                 "what SliceGPT rounded the width down to a multiple of (default: 8 or 1, whichever explains the width)")
      ->check(CLI::PositiveNumber)
      ->each([&](const std::string&) { options.interval_given = true; });
  app.add_option("--name", options.name, "name of the model in reports (default: the file's)");
  app.add_option("--encode", options.encode,
                 "auto: quantized matrices as codes, the rest in the fewest bytes; lossless: bit masks and zstd alone; dense: every tensor "
                 "as it is")
      ->check(CLI::IsMember({"auto", "dense", "lossless"}))
      ->capture_default_str();
  app.add_flag("--json", options.json, "the summary as JSON");
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(
      argc, argv,
      {"convert-slicegpt",
       "Packages a model sliced by SliceGPT into a .miq container that runs without its base model's weights.\n"
       "The widths come from the tensors; what the json, the name or the options say is held against them.",
       [&](CLI::App& app) { declare(app, options); }, [&](Session& session) { return convert(options, session); },
       "Example:\n  convert-slicegpt --slicegpt_model sliced/Llama-2-7b_0.25.pt --base_model Llama-2-7b --output sliced.miq"});
}

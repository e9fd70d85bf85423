// convert-checkpoint SOURCE -o OUT.miq: any checkpoint that the suite reads, as a container, without loss.
#include <filesystem>
#include <sstream>

#include "miq/converters/open_model.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::string source, output, name, encode = "auto";
};

// The same elements in fewer bytes where that pays; what the source holds encoded already stays as it is.
void encode_tensors(Model& model, const std::string& encode, Session& session) {
  if (encode == "dense") return;
  std::vector<Tensor*> tensors;
  for (auto& [name, tensor] : model.tensors) {
    if (tensor.encoding == Encoding::Dense) tensors.push_back(&tensor);
  }
  session.pool().for_each(static_cast<std::int64_t>(tensors.size()), [&](std::int64_t i) {
    Tensor& tensor = *tensors[static_cast<std::size_t>(i)];
    tensor = encode_best(tensor, encode == "lossless");
  });
}

ExitCode convert(const Options& options, Session& session) {
  const auto progress = session.progress_function();
  progress({"reading " + std::filesystem::path(options.source).filename().string(), 0, 3});
  Model model = open_model(options.source);
  if (!options.name.empty()) model.name = options.name;
  if (model.source.contains("format") && model.source["format"] != "miq") model.source["digest"] = weights_digest(model, session.pool());
  progress({"encoding", 1, 3});
  encode_tensors(model, options.encode, session);
  progress({"writing", 2, 3});
  save_model(model, options.output);
  progress({"done", 3, 3});

  std::uint64_t weights = 0, bytes = 0;
  for (const auto& [name, tensor] : model.tensors) {
    weights += static_cast<std::uint64_t>(tensor.elements());
    bytes += tensor.stored_bytes();
  }
  std::ostringstream line;
  line << options.output << ": " << model.name << ", " << model.config.architecture << ", " << model.config.layers.size() << " layers, " << weights
       << " weights in " << bytes << " bytes";
  session.print(line.str());
  return ExitCode::Done;
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(argc, argv,
                     {"convert-checkpoint",
                      "Packages a checkpoint into a self-describing .miq container, without loss.\n"
                      "SOURCE is a Hugging Face folder (safetensors), a GGUF file or a .miq container; its kind is found by content.",
                      [&](CLI::App& app) {
                        app.add_option("source", options.source, "Checkpoint to read")->required();
                        app.add_option("-o,--output", options.output, "Container to write")->required();
                        app.add_option("--name", options.name, "Name of the model in reports (default: the source's own)");
                        app.add_option("--encode", options.encode,
                                       "dense: every tensor as it is; auto: zeros as a bit mask where that is smaller; "
                                       "lossless: also zstd over shuffled bytes")
                            ->check(CLI::IsMember({"auto", "dense", "lossless"}))
                            ->capture_default_str();
                      },
                      [&](Session& session) { return convert(options, session); },
                      "Example:\n  convert-checkpoint models/SmolLM2-135M -o smollm2.miq"});
}

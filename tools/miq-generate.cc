// miq-generate MODEL --prompt TEXT: the text that a model writes on from a prompt.
#include <algorithm>
#include <chrono>
#include <optional>

#include "miq/converters/open_model.h"
#include "miq/model/generate.h"
#include "miq/model/unicode.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/cuda_kernels.h"
#include "miq/tools/device_option.h"
#include "miq/tools/machine.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::string model, prompt, dtype = "auto", device = "cpu";
  std::int64_t new_tokens = 128;
  Sampling sampling;
  bool echo = false;
};

// Text of growing ids, handed out as soon as no later id can change it.
class Writer {
 public:
  Writer(const Tokenizer& tokenizer, std::vector<std::int32_t> prompt, Session& session)
      : tokenizer_(tokenizer), session_(session), ids_(std::move(prompt)), written_(tokenizer.decode(ids_).size()) {}

  void add(std::int32_t id) {
    ids_.push_back(id);
    const std::string text = tokenizer_.decode(ids_);
    std::size_t whole = text.size();
    // A character of several bytes may still be coming.
    for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
      const auto byte = static_cast<unsigned char>(text[text.size() - back]);
      if (byte < 0x80) break;
      if (byte < 0xC0) continue;
      const std::size_t wanted = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      if (back < wanted) whole = text.size() - back;
      break;
    }
    write(text, whole);
  }
  void finish() {
    const std::string text = tokenizer_.decode(ids_);
    write(text, text.size());
    session_.print("\n");
  }

 private:
  void write(const std::string& text, std::size_t end) {
    if (end <= written_) return;
    session_.print(replace_invalid_utf8(std::string_view(text).substr(written_, end - written_)));
    written_ = end;
  }
  const Tokenizer& tokenizer_;
  Session& session_;
  std::vector<std::int32_t> ids_;
  std::size_t written_;
};

ExitCode run(const Options& options, Session& session) {
  check_sampling(options.sampling);
  const at::Device device = chosen_device(options.device, session);
  session.progress().start("opening");
  const Model model = open_model(checkpoint_path(options.model));
  for (const std::string& warning : model.warnings) session.warn(warning);
  if (!model.tokenizer) throw Error(options.model + ": has no tokenizer, so its prompt cannot be read; package it with its tokenizer's files");
  const std::vector<std::int32_t> prompt = model.tokenizer->encode(options.prompt);
  const ComputeType type = compute_type(options.dtype, device);
  const Generator generator(model, type, session.pool(), device, Kernels::Portable, kernels_if_there(device, session));
  if (generator.packed_matrices() > 0) session.message_function()(std::to_string(generator.packed_matrices()) + " matrices are multiplied as they are packed");
  const ProgressFunction alive = session.progress_function();
  alive({"reading the prompt", 0, 1});
  session.progress().clear();
  if (options.echo) session.print(options.prompt);
  Writer writer(*model.tokenizer, prompt, session);
  const auto started = std::chrono::steady_clock::now();
  std::optional<std::chrono::steady_clock::time_point> first;
  GenerateOptions settings{options.new_tokens, options.sampling, end_ids(model)};
  const auto made = generate(generator, std::span(&prompt, 1), settings, [&](std::size_t, std::int32_t id) {
    if (!first) first = std::chrono::steady_clock::now();
    alive({"generating", 0, 1});  // ends the run after Ctrl-C
    writer.add(id);
  });
  writer.finish();
  const auto seconds = [](auto from, auto to) { return std::chrono::duration<double>(to - from).count(); };
  const std::size_t count = made.front().size();
  char line[200];
  if (count > 1) {
    std::snprintf(line, sizeof line, "prompt of %zu tokens in %.2f s, %zu tokens at %.1f a second (%s)", prompt.size(), seconds(started, *first), count,
                  static_cast<double>(count - 1) / seconds(*first, std::chrono::steady_clock::now()), std::string(compute_type_name(type)).c_str());
    session.message_function()(line);
  }
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("model,--model-path", options.model, "model: .miq, GGUF, PyTorch file or Hugging Face folder")->required();
  app.add_option("-p,--prompt", options.prompt, "the text to write on from")->required();
  app.add_option("-n,--max-new-tokens", options.new_tokens, "end after so many tokens")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--temperature", options.sampling.temperature, "0: always the most probable token; above: draw, the wilder the higher")->capture_default_str();
  app.add_option("--top-k", options.sampling.top_k, "draw from the k most probable tokens; 0: from all")->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p, "draw from the fewest most probable tokens that have this probability together")->capture_default_str();
  app.add_option("--seed", options.sampling.seed, "of the draws; the same seed gives the same text")->capture_default_str();
  app.add_option("--dtype", options.dtype, "float32, bfloat16, or auto: bfloat16 where the processor has it")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}))
      ->capture_default_str();
  declare_device_option(app, options.device);
  app.add_flag("--echo", options.echo, "print the prompt in front");
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(argc, argv,
                     {"miq-generate",
                      "Writes on from a prompt with any model that the suite reads. For a look at what compression left of a model; it serves nobody.",
                      [&](CLI::App& app) { declare(app, options); }, [&](Session& session) { return run(options, session); },
                      "Example:\n  miq-generate small.miq --prompt \"The capital of France is\" --max-new-tokens 40"});
}

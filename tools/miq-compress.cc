// miq-compress MODEL CALIBRATION -o OUT.miq: options -> open_model -> sample_windows -> compress -> save_model.
#include <filesystem>
#include <optional>
#include <sstream>

#include "miq/compress/compress.h"
#include "miq/compress/forecast.h"
#include "miq/compress/rank_sums.h"
#include "miq/compress/run_journal.h"
#include "miq/converters/hugging_face_writer.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/formats/atomic_file.h"
#include "miq/tools/calibration_options.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/compress_options.h"
#include "miq/tools/cuda_kernels.h"
#include "miq/tools/device_option.h"
#include "miq/tools/machine.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::string model, calibration, output, save;
  std::vector<std::string> eval;
  std::int64_t eval_seqlen = 0, eval_windows = 0;
  bool dry_run = false, resume = false, no_journal = false;
  std::optional<std::uint64_t> memory;
  std::string scratch, device = "cpu";
  TextFlags texts;
  CalibrationFlags sampling;
  MethodFlags method;
};

void evaluate(const Options& options, const Model& model, ComputeType compute, at::Device device, const std::vector<Text>& texts, Session& session) {
  session.progress().start("evaluating");
  const ForwardPass forward(model, compute, Kernels::Best, device);
  PerplexityOptions settings;
  settings.seqlen = options.eval_seqlen;
  settings.windows = options.eval_windows;
  settings.walk.ranks = &session.ranks();
  WalkStatistics statistics;
  for (const Perplexity& result : measure_perplexity(forward, texts, settings, session.pool(), session.progress_function(), statistics)) {
    if (result.failed()) throw Error(result.text + ": " + result.failure);
    std::ostringstream line;
    line.precision(6);
    line << "perplexity " << result.text << " " << result.summary.perplexity << " (" << result.windows << " windows of " << result.seqlen << ", "
         << compute_type_name(compute) << (result.calibrated_on ? ", calibrated on this text" : "") << ")";
    session.print(line.str() + "\n");
  }
}

// The journal of a run, beside its output. When the run ends early it says how to go on.
class KeptRun {
 public:
  KeptRun(const Options& options, const Model& model, const Calibration& calibration, const Recipe& recipe, Session& session)
      : session_(session) {
    std::string output = options.output.empty() ? options.save : options.output;
    while (output.size() > 1 && output.back() == '/') output.pop_back();
    if (output.empty() || options.no_journal || reshapes(*recipe.method)) return;
    journal_.emplace(output + ".journal", options.resume, model, calibration, recipe, session.pool());
    if (!journal_->found().empty()) {
      session.message_function()(journal_->folder() + ": " + journal_->found());
    } else if (options.resume) {
      session.message_function()(journal_->folder() + ": is not there, so the run begins anew");
    }
  }
  ~KeptRun() {
    if (!journal_ || finished_) return;
    if (journal_->empty()) {
      forget();
    } else {
      session_.warn(journal_->folder() + " keeps " + journal_->kept_text() + "; the same command with --resume goes on from there");
    }
  }
  KeptRun(const KeptRun&) = delete;
  KeptRun& operator=(const KeptRun&) = delete;

  RunJournal* journal() { return journal_ ? &*journal_ : nullptr; }
  // The output is written.
  void finish() {
    if (journal_) journal_->remove();
    finished_ = true;
  }

 private:
  void forget() noexcept {
    try {
      journal_->remove();
    } catch (const Error&) {  // an empty journal is in nobody's way
    }
  }
  Session& session_;
  std::optional<RunJournal> journal_;
  bool finished_ = false;
};

// Where --memory puts what does not fit: beside the output, whose disk has to have room anyway.
std::string scratch_folder(const Options& options) {
  if (!options.scratch.empty()) return options.scratch;
  std::string output = options.output.empty() ? options.save : options.output;
  while (output.size() > 1 && output.back() == '/') output.pop_back();
  return output.empty() ? std::filesystem::temp_directory_path().string() : std::filesystem::path(output).parent_path().string();
}

// Of rank 0; in the other processes it is much the same.
std::string traffic_text(const Ranks& ranks, const DeviceRanks* device) {
  const Ranks::Traffic& traffic = ranks.traffic();
  std::ostringstream line;
  line.setf(std::ios::fixed);
  line.precision(1);
  line << ranks.size() << " processes: " << static_cast<double>(traffic.summed) / 1e6 << " MB summed, " << static_cast<double>(traffic.broadcast) / 1e6 << " MB broadcast, "
       << static_cast<double>(traffic.sent) / 1e6 << " MB to and from process 1, which spent " << traffic.seconds << " s in that and waiting";
  if (device) line << "; " << static_cast<double>(device->device_bytes()) / 1e6 << " MB summed between GPUs";
  return line.str();
}

// What the run will take, for people; and what of it goes where, under --memory.
std::string plan_run(const Model& model, const Calibration& calibration, const Recipe& recipe, const Options& options,
                     std::optional<ScratchFolder>& scratch, Session& session, WorkingMemory& memory) {
  const Rates rates = measure_rates(model, static_cast<std::int64_t>(calibration.windows.front().size()), recipe, session.pool());
  const Forecast expected = forecast(model, calibration, recipe, rates);
  std::string plan = forecast_text(expected, calibration, recipe);
  if (!scratch) return plan;
  const MemoryFit fit = fit_memory(expected, *options.memory);
  if (fit.disk) {
    scratch->require(fit.disk_bytes);
    memory = {&*scratch, fit.hessians};
  }
  return plan + "\n" + fit_text(fit, *options.memory, scratch->path());
}

ExitCode run(const Options& options, Session& session) {
  // Everything that can be refused without work is refused first.
  if (options.output.empty() && options.save.empty() && options.eval.empty() && !options.dry_run) {
    throw UsageError("give -o OUT.miq, --save FOLDER, or --eval NAME to only look at the result");
  }
  const ComputeDevice where = with_kernels(chosen_device(options.device, session));
  const std::unique_ptr<DeviceRanks> on_devices = options.device == "cpu" ? nullptr : ranks_on_devices(where, session);
  Ranks& ranks = on_devices ? *on_devices : session.ranks();
  const bool first = ranks.first();  // of several processes it alone writes
  if (!options.output.empty() && first) AtomicFile{options.output};  // throws where it cannot be written; leaves nothing
  std::vector<Text> texts;
  for (const std::string& name : options.eval) texts.push_back(find_named_text(options.texts, name));
  session.progress().start("reading");
  std::optional<ScratchFolder> scratch;
  if (options.memory) {
    scratch.emplace(scratch_folder(options));
    give_back_what_is_freed();
  }
  const std::string path = checkpoint_path(options.model);
  OpenOptions opening;
  if (scratch) opening.scratch = &*scratch;
  const Model model = open_model(path, opening);
  for (const std::string& warning : model.warnings) session.warn(warning);
  if (!options.save.empty() && first) check_hugging_face_folder(model, options.save, {});
  MethodFlags method = options.method;
  if (where.used() && method.dtype == "auto") method.dtype = "bfloat16";
  const Recipe recipe = resolve(method_options(method, options.sampling.seed), model.config);
  require_runs_there(recipe, ranks, where);
  if (options.resume && reshapes(*recipe.method)) {
    throw UsageError("method " + std::string(recipe.method->name) + " keeps no journal, so there is nothing to --resume; run it from the start");
  }
  if (ranks.broadcast(model.config.to_json().dump()) != model.config.to_json().dump()) throw Error(path + ": is another model than that of process 1");
  Calibration calibration;
  if (first) calibration = read_calibration(options.model, model, options.calibration, options.texts, options.sampling);
  share_calibration(ranks, calibration);
  const auto message = session.message_function();
  WorkingMemory memory;
  std::string plan;
  if (first) plan = plan_run(model, calibration, recipe, options, scratch, session, memory);
  // What goes to the disk, and how many Hessians are summed at once, is the same in all.
  memory.hessians = ranks.broadcast(memory.hessians);
  if (ranks.broadcast(static_cast<std::uint64_t>(memory.disk != nullptr)) && !first) memory.disk = &*scratch;
  if (options.dry_run) {
    session.print(plan + "\n");
    return ExitCode::Done;
  }
  message(plan);
  session.progress().start(std::string(recipe.method->name));
  std::optional<KeptRun> kept;
  if (first) kept.emplace(options, model, calibration, recipe, session);
  CompressResult result = compress(model, calibration, recipe, session.pool(), session.progress_function(), message, kept ? kept->journal() : nullptr, memory, ranks, where);
  session.progress().clear();
  if (!ranks.alone()) message(traffic_text(session.ranks(), on_devices.get()));
  if (!options.output.empty() && first) save_model(result.model, options.output);
  if (!options.save.empty() && first) {
    session.progress().start("writing");
    for (const std::string& note : write_hugging_face_folder(result.model, options.save, {}, session.pool(), session.progress_function()).notes) message(options.save + ": " + note);
    session.progress().clear();
  }
  if (kept) kept->finish();
  session.print(result.summary + "\n");
  if (!texts.empty()) evaluate(options, result.model, recipe.compute, where.device, texts, session);
  if (result.fallbacks > 0) {
    if (result.unseen > 0) {
      session.warn(std::to_string(result.unseen) +
                   " matrices of experts that no calibration token reached were rounded to nearest; more calibration text helps");
    }
    if (const std::int64_t unsolved = result.fallbacks - result.unseen; unsolved > 0) {
      session.warn(std::to_string(unsolved) +
                   " matrices could not be solved and were rounded to nearest; more calibration text or a larger --damping helps");
    }
    return ExitCode::Degraded;
  }
  return ExitCode::Done;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("model", options.model, "model to compress: .miq, GGUF or Hugging Face folder")->required();
  app.add_option("calibration", options.calibration, "text to calibrate on: a file, NAME=PATH, or a name found in --data-dir")->required();
  app.add_option("-o,--output", options.output, "container to write");
  app.add_option("--save", options.save, "also a folder that transformers loads, with the compressed weights as floats (convert-checkpoint --to hf)");
  app.add_flag("--dry-run", options.dry_run, "print what the run would take (memory, disk, size of the output, time) and end");
  app.add_flag("--resume", options.resume, "go on with what an interrupted run of the same command left in OUT.miq.journal; the result is the same, byte for byte");
  app.add_flag("--no-journal", options.no_journal, "keep nothing for --resume (saves disk space: twice the hidden states of all windows)")->excludes("--resume");
  declare_device_option(app, options.device);
  app.add_option("--memory", options.memory,
                 "cap on the memory that the run takes for itself, such as 2GB; what does not fit goes to the disk, and experts are measured in batches; "
                 "the result is the same, byte for byte")
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--scratch", options.scratch, "folder for what --memory keeps out of memory; by default the output's");
  declare_text_options(app, options.texts);
  declare_method_options(app, options.method);
  declare_calibration_options(app, options.sampling);
  app.add_option("--eval", options.eval, "texts to evaluate the result on: names, NAME=PATH or files")->delimiter(',');
  app.add_option("--eval-seqlen", options.eval_seqlen, "tokens of an evaluation window; by default the smaller of the model's maximum and 2048")
      ->check(CLI::PositiveNumber);
  app.add_option("--eval-windows", options.eval_windows, "at most the first N windows of each text")->check(CLI::PositiveNumber);
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(argc, argv,
                     {"miq-compress",
                      "Compresses the linear layers of a language model: zeros, fewer bits, or both.\n"
                      "The container that it writes says how, and what every matrix lost.",
                      [&](CLI::App& app) { declare(app, options); },
                      [&](Session& session) { return run(options, session); },
                      "Examples:\n"
                      "  miq-compress model.miq c4 --data-dir data --method mixed --target-avg-bits 4 -o mixed.miq\n"
                      "  miq-compress model.miq text.txt --method sparsegpt --sparsity 0.5 --wbits 4 -o small.miq --eval wikitext2 --data-dir data\n"
                      "  mpirun -n 4 miq-compress model.miq c4 --data-dir data --method gptq --wbits 4 -o small.miq", true});
}

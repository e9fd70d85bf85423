// compare-methods MODEL CALIBRATION -o FOLDER: one model and one set of calibration windows, read once; for each run
// resolve -> compress -> save_model -> evaluate_model, and one report of all and the dense model. With --jobs some runs compress at once, each by threads
// of its own: what one does alone (a factorisation, reading a layer) then leaves no processor idle. Several processes do each step together; rank 0 writes.
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <set>

#include "miq/base/version.h"
#include "miq/compress/compress.h"
#include "miq/compress/rank_sums.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/metrics.h"
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

namespace fs = std::filesystem;

struct Options {
  std::string model, calibration, output;
  std::vector<std::string> methods, runs, eval;
  std::int64_t eval_seqlen = 0, eval_windows = 0;
  int jobs = 1;
  bool no_dense = false;
  std::string device = "cpu";
  TextFlags texts;
  CalibrationFlags sampling;
  MethodFlags method;  // for all runs
};

struct Run {
  std::string name;
  MethodFlags flags;
  Recipe recipe;
};

// "NAME=METHOD OPTION…", read by the same declarations as the command line, on top of what was given for all.
Run parse_run(const std::string& text, const MethodFlags& common) {
  const std::size_t equals = text.find('=');
  const auto refuse = [&](const std::string& why) { throw UsageError("--run '" + text + "': " + why); };
  if (equals == std::string::npos || equals == 0) refuse("write NAME=METHOD OPTION..., such as 'strong=gptq --act-order --group-size 64'");
  Run run{text.substr(0, equals), common, {}};
  const std::string rest = text.substr(equals + 1);
  const std::size_t end = std::min(rest.find(' '), rest.size());
  run.flags.compress.method = rest.substr(0, end);
  CLI::App app;
  app.set_help_flag();
  declare_method_options(app, run.flags, false);
  try {
    app.parse(rest.substr(end));
  } catch (const CLI::ParseError& error) {
    refuse(error.what());
  }
  return run;
}

std::vector<Run> list_runs(const Options& options) {
  std::vector<std::string> texts;
  for (const std::string& method : options.methods) texts.push_back(method + "=" + method);
  texts.insert(texts.end(), options.runs.begin(), options.runs.end());
  if (texts.empty()) texts = {"original=sparsegpt", "enhanced=enhanced", "mi=mi"};
  std::vector<Run> runs;
  std::set<std::string> names{"dense"};
  for (const std::string& text : texts) {
    Run run = parse_run(text, options.method);
    const bool plain = run.name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") == std::string::npos;
    if (!plain || run.name.front() == '.') throw UsageError("'" + run.name + "' names a file: letters, digits, '-', '_' and '.' please");
    if (!names.insert(run.name).second) throw UsageError("two runs are called '" + run.name + "'; names must differ, and from 'dense'");
    runs.push_back(std::move(run));
  }
  return runs;
}

void write_file(const fs::path& path, const std::string& text) {
  AtomicFile file(path.string());
  file.write(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
  file.commit();
}

// Everything that the runs share, and the report that grows.
class Comparison {
 public:
  Comparison(const Options& options, std::vector<Run> runs, Session& session)
      : options_(options), runs_(std::move(runs)), session_(session), where_(with_kernels(chosen_device(options.device, session))),
        on_devices_(options.device == "cpu" ? nullptr : ranks_on_devices(where_, session)), ranks_(on_devices_ ? *on_devices_ : session.ranks()) {}

  ExitCode go() {
    for (const std::string& name : options_.eval) evaluation_.texts.push_back(find_named_text(options_.texts, name));
    if (options_.jobs > 1 && !ranks_.alone()) throw UsageError("--jobs is for one process; several do each run together");
    if (options_.jobs > 1 && where_.used()) throw UsageError("--jobs is for the processor; on a GPU one run goes after another");
    session_.progress().start("reading");
    const Model model = open_model(checkpoint_path(options_.model));
    for (const std::string& warning : model.warnings) session_.warn(warning);
    for (Run& run : runs_) prepare(run, model);
    if (ranks_.broadcast(model.config.to_json().dump()) != model.config.to_json().dump()) throw Error(options_.model + ": is another model than that of process 1");
    Calibration calibration;
    if (ranks_.first()) calibration = read_calibration(options_.model, model, options_.calibration, options_.texts, options_.sampling);
    share_calibration(ranks_, calibration);
    if (ranks_.first()) fs::create_directories(options_.output);
    begin_report();
    session_.progress().start("comparing");
    if (!options_.no_dense) evaluate("dense", model, options_.model);
    for (std::size_t first = 0; first < runs_.size(); first += static_cast<std::size_t>(options_.jobs)) {
      const std::size_t count = std::min(static_cast<std::size_t>(options_.jobs), runs_.size() - first);
      compress_and_evaluate(std::span(runs_).subspan(first, count), model, calibration);
    }
    finish();
    return degraded_ ? ExitCode::Degraded : ExitCode::Done;
  }

 private:
  void prepare(Run& run, const Model& model) {
    if (where_.used() && run.flags.dtype == "auto") run.flags.dtype = "bfloat16";
    try {
      run.recipe = resolve(method_options(run.flags, options_.sampling.seed), model.config);
    } catch (const UsageError& error) {
      throw UsageError("run '" + run.name + "': " + error.what() + ". An option for one run alone goes into --run 'NAME=METHOD OPTION...'");
    }
    try {
      require_runs_there(run.recipe, ranks_, where_);
    } catch (const UsageError& error) {
      throw UsageError("run '" + run.name + "': " + error.what());
    }
  }

  void begin_report() {
    evaluation_.metrics = choose_metrics("ppl,params,size");
    evaluation_.perplexity.seqlen = options_.eval_seqlen;
    evaluation_.perplexity.windows = options_.eval_windows;
    evaluation_.perplexity.walk.ranks = &ranks_;
    evaluation_.device = where_.device;
    evaluation_.kernels = where_.kernels;
    evaluation_.type = runs_.front().recipe.compute;
    report_.version = version();
    report_.torch_version = torch_version();
    report_.device = where_.device.str();
    report_.device_name = name_of_device(where_.device);
    report_.dtype = compute_type_name(evaluation_.type);
    report_.threads = session_.pool().threads();
    report_.processes = ranks_.size();
    report_.protocol = evaluation_.perplexity.protocol;
  }

  // One line for the whole comparison: compressing takes longer than evaluating. `done`, of this job, is what the others show with theirs.
  ProgressFunction progress(const std::string& what, double share, double& done) {
    const double models = static_cast<double>(runs_.size());
    return [this, what, share, models, &done, draw = session_.progress_function()](const Progress& now) {
      const std::lock_guard lock(talk_);
      if (stopped_) throw Error("stopped, since another run failed");
      done = share * now.done / std::max(1e-9, now.total);
      double all = done_;
      for (const double part : in_flight_) all += part;
      draw({what + ", " + std::string(now.stage), all, models});
    };
  }

  void evaluate(const std::string& name, const Model& model, const std::string& path) {
    if (evaluation_.texts.empty()) return;
    constexpr double kShare = 0.1;
    in_flight_.assign(1, 0);
    MemoryWatch memory;
    report_.models.push_back(evaluate_model(model, path, evaluation_, memory, session_.pool(), progress("evaluating " + name, kShare, in_flight_.front())));
    report_.models.back().name = name;
    in_flight_.clear();
    for (const std::string& failure : report_.models.back().failures) session_.warn(name + ": " + failure);
  }

  std::string path_of(const Run& run) const { return (fs::path(options_.output) / (run.name + ".miq")).string(); }

  // Compresses and writes one of the runs in flight.
  CompressResult compressed(const Run& run, double& done, const Model& model, const Calibration& calibration, ThreadPool& pool) {
    try {
      const auto start = std::chrono::steady_clock::now();
      CompressResult result = compress(model, calibration, run.recipe, pool, progress(run.name, 0.9, done), {}, nullptr, {}, ranks_, where_);
      if (ranks_.first()) save_model(result.model, path_of(run));
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      const std::lock_guard lock(talk_);
      session_.progress().clear();
      session_.message_function()(run.name + ": " + path_of(run) + ", " + figure_text(seconds) + " s");
      return result;
    } catch (const UsageError& error) {  // a target that the plan cannot reach
      throw UsageError("run '" + run.name + "': " + error.what());
    }
  }

  // Results in the order of `runs`. Once one has failed the others stop where they next report, and its error is thrown.
  std::vector<CompressResult> compress_at_once(std::span<const Run> runs, const Model& model, const Calibration& calibration) {
    in_flight_.assign(runs.size(), 0);
    std::vector<CompressResult> results;
    if (runs.size() == 1) {
      results.push_back(compressed(runs.front(), in_flight_.front(), model, calibration, session_.pool()));
      return results;
    }
    std::exception_ptr failure;
    std::vector<std::future<std::optional<CompressResult>>> jobs;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      jobs.push_back(std::async(std::launch::async, [&, i]() -> std::optional<CompressResult> {
        try {
          ThreadPool pool(session_.pool().threads());
          return compressed(runs[i], in_flight_[i], model, calibration, pool);
        } catch (...) {
          const std::lock_guard lock(talk_);
          if (!stopped_) failure = std::current_exception();
          stopped_ = true;
          return std::nullopt;
        }
      }));
    }
    for (auto& job : jobs) {
      if (std::optional<CompressResult> result = job.get()) results.push_back(std::move(*result));
    }
    if (failure) std::rethrow_exception(failure);
    return results;
  }

  void compress_and_evaluate(std::span<const Run> runs, const Model& model, const Calibration& calibration) {
    const std::vector<CompressResult> results = compress_at_once(runs, model, calibration);
    in_flight_.clear();
    done_ += 0.9 * static_cast<double>(runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (results[i].fallbacks > 0) {
        session_.warn(runs[i].name + ": " + std::to_string(results[i].fallbacks) + " matrices were rounded to nearest (no factorisation, or no token)");
        degraded_ = true;
      }
      evaluate(runs[i].name, results[i].model, path_of(runs[i]));
      done_ += 0.1;
    }
  }

  void finish() {
    session_.progress().clear();
    const fs::path folder = options_.output;
    degraded_ = degraded_ || report_.failed();
    if (!ranks_.first() || evaluation_.texts.empty()) return;
    write_file(folder / "report.json", report_json(report_).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    write_file(folder / "report.md", report_markdown(report_));
    write_file(folder / "report.html", report_html(report_));
    session_.print(report_table(report_, true));
  }

  const Options& options_;
  std::vector<Run> runs_;
  Session& session_;
  const ComputeDevice where_;
  const std::unique_ptr<DeviceRanks> on_devices_;  // where sums go from GPU to GPU
  Ranks& ranks_;
  EvaluationOptions evaluation_;
  Report report_;
  std::mutex talk_;  // of runs that compress at once: progress, messages and what follows here
  std::vector<double> in_flight_;
  bool stopped_ = false;
  double done_ = 0;  // of finished work, in models
  bool degraded_ = false;
};

void declare(CLI::App& app, Options& options) {
  app.add_option("model", options.model, "model to compress: .miq, GGUF or Hugging Face folder")->required();
  app.add_option("calibration", options.calibration, "text to calibrate on: a file, NAME=PATH, or a name found in --data-dir")->required();
  app.add_option("-o,--output", options.output, "folder for the containers and report.json, report.md, report.html")->required();
  app.add_option("--methods", options.methods, "methods to compare; by default sparsegpt (as 'original'), enhanced and mi")->delimiter(',');
  app.add_option("--run", options.runs, "one more run, with options of its own: 'NAME=METHOD OPTION...'; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--eval", options.eval, "texts to compare on: names, NAME=PATH or files; without it the models are made and nothing is evaluated")->delimiter(',');
  app.add_option("--eval-seqlen", options.eval_seqlen, "tokens of an evaluation window; by default the smaller of the model's maximum and 2048")
      ->check(CLI::PositiveNumber);
  app.add_option("--eval-windows", options.eval_windows, "at most the first N windows of each text")->check(CLI::PositiveNumber);
  app.add_option("--jobs", options.jobs, "compress so many runs at once: faster, and so many times the memory")->check(CLI::Range(1, 64));
  declare_device_option(app, options.device);
  app.add_flag("--no-dense", options.no_dense, "do not evaluate the model itself");
  declare_text_options(app, options.texts);
  declare_calibration_options(app, options.sampling);
  declare_method_options(app, options.method, false);
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(argc, argv,
                     {"compare-methods",
                      "Compresses one model by several methods with the same calibration, evaluates all, and reports them side by side.",
                      [&](CLI::App& app) { declare(app, options); },
                      [&](Session& session) { return Comparison(options, list_runs(options), session).go(); },
                      "Examples:\n"
                      "  compare-methods model.miq c4 --data-dir data --wbits 4 --sparsity 0.5 --eval wikitext2,ptb -o comparison\n"
                      "  compare-methods model.miq c4 --data-dir data --wbits 3 --methods gptq,mixed \\\n"
                      "      --run 'strong=gptq --act-order --group-size 64 --clip search' --eval wikitext2 -o comparison", true});
}

// miq-compress MODEL CALIBRATION -o OUT.miq: options -> open_model -> sample_windows -> compress -> save_model.
#include <filesystem>
#include <optional>
#include <sstream>

#include "miq/compress/calibration.h"
#include "miq/compress/compress.h"
#include "miq/compress/forecast.h"
#include "miq/compress/methods.h"
#include "miq/compress/run_journal.h"
#include "miq/converters/hugging_face_writer.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/perplexity.h"
#include "miq/evaluate/texts.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/mapped_file.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/machine.h"
#include "miq/tools/program.h"

namespace miq {
namespace {

struct Options {
  std::string model, calibration, output, save, data_dir, dtype = "auto";
  std::vector<std::string> datasets, eval;
  std::string documents, sampling = "random", bit_method, grouping, sparsity_allocation, allocator, mi_estimator, clustering;
  std::optional<int> use_mi_grouping;
  std::int64_t windows = 128, seqlen = 0, eval_seqlen = 0, eval_windows = 0;
  std::uint64_t seed = 0;
  bool dry_run = false, resume = false, no_journal = false;
  CompressOptions compress;
};

// NAME=PATH pairs of --dataset, and names found in --data-dir.
Text find_named_text(const Options& options, const std::string& name) {
  for (const std::string& dataset : options.datasets) {
    if (dataset.rfind(name + "=", 0) == 0) return load_text(name, dataset.substr(name.size() + 1));
  }
  if (const auto equals = name.find('='); equals != std::string::npos) return load_text(name.substr(0, equals), name.substr(equals + 1));
  if (std::filesystem::is_regular_file(name)) return load_text(std::filesystem::path(name).stem().string(), name);
  if (options.data_dir.empty()) {
    throw UsageError("'" + name + "' is no file, and without --data-dir or --dataset " + name + "=PATH it is not known where that text is");
  }
  return load_text(name, find_text(options.data_dir, name));
}

Calibration read_calibration(const Options& options, const Model& model) {
  if (!model.tokenizer) throw Error(options.model + ": has no tokenizer, so no text can calibrate it; convert it again with its tokenizer files beside it");
  const Text text = find_named_text(options, options.calibration);
  CalibrationOptions sampling;
  const std::string documents = options.documents.empty() ? (text.name == "c4" ? "lines" : "whole") : options.documents;
  sampling.documents = documents == "lines" ? Documents::Lines : Documents::Whole;
  sampling.sampling = options.sampling == "in-order" ? Sampling::InOrder : Sampling::Random;
  sampling.windows = options.windows;
  sampling.seqlen = options.seqlen;
  sampling.seed = options.seed;
  // Lines are those of the file: a dataset's preparation may have joined them.
  const Blob file = sampling.documents == Documents::Lines ? map_file(text.path) : Blob(text.content);
  Calibration calibration = sample_windows(file.text(), text.name, *model.tokenizer, model.config, sampling);
  calibration.description["text_digest"] = text.digest;
  calibration.description["source_digest"] = text.source_digest;
  return calibration;
}

CompressOptions method_options(const Options& options) {
  CompressOptions result = options.compress;
  result.seed = options.seed;
  result.compute = options.dtype == "float32" || (options.dtype == "auto" && !processor_has_bfloat16()) ? ComputeType::Float32 : ComputeType::BFloat16;
  if (!options.bit_method.empty()) result.bit_method = options.bit_method == "quantile" ? BitMethod::Quantile : BitMethod::Budget;
  if (!options.sparsity_allocation.empty()) {
    result.sparsity_allocation = options.sparsity_allocation == "global" ? SparsityAllocation::Global : SparsityAllocation::Even;
  }
  if (!options.grouping.empty()) {
    const std::string name = options.grouping == "mi-sensitivity" ? "mi-equal" : options.grouping;
    for (Grouping grouping : {Grouping::Contiguous, Grouping::Sensitivity, Grouping::MutualInformation, Grouping::MutualInformationEqual, Grouping::Random}) {
      if (grouping_name(grouping) == name) result.grouping = grouping;
    }
  }
  for (Allocator allocator : {Allocator::Global, Allocator::PerLayer, Allocator::Redundancy, Allocator::Quantile, Allocator::Budget}) {
    if (allocator_name(allocator) == options.allocator) result.allocator = allocator;
  }
  if (!options.mi_estimator.empty()) result.mi_estimator = options.mi_estimator == "binned" ? MiEstimator::Binned : MiEstimator::Gaussian;
  if (!options.clustering.empty())
    result.clustering = options.clustering == "hierarchical" ? Clustering::Hierarchical : Clustering::Spectral;
  if (options.use_mi_grouping) {
    if (result.method != "mi") throw UsageError("--use_mi_grouping belongs to method mi");
    // 1 is what the method does anyway, by whichever of its two groupings was asked for.
    const bool information = *options.use_mi_grouping != 0;
    if (result.grouping && (information ? !needs_mutual_information(*result.grouping) : *result.grouping != Grouping::Contiguous))
      throw UsageError("--use_mi_grouping and --grouping contradict each other; give one of them");
    if (!information) result.grouping = Grouping::Contiguous;
  }
  return result;
}

void evaluate(const Options& options, const Model& model, ComputeType compute, const std::vector<Text>& texts, Session& session) {
  session.progress().start("evaluating");
  const ForwardPass forward(model, compute);
  PerplexityOptions settings;
  settings.seqlen = options.eval_seqlen;
  settings.windows = options.eval_windows;
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
    if (output.empty() || options.no_journal) return;
    journal_.emplace(output + ".journal", options.resume, model, calibration, recipe, session.pool());
    if (!options.output.empty()) remove_abandoned_temporaries(options.output);  // the journal is ours alone, so the output is
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

ExitCode run(const Options& options, Session& session) {
  // Everything that can be refused without work is refused first.
  if (options.output.empty() && options.save.empty() && options.eval.empty() && !options.dry_run) {
    throw UsageError("give -o OUT.miq, --save FOLDER, or --eval NAME to only look at the result");
  }
  if (!options.output.empty()) AtomicFile{options.output};  // throws where it cannot be written; leaves nothing
  std::vector<Text> texts;
  for (const std::string& name : options.eval) texts.push_back(find_named_text(options, name));
  session.progress().start("reading");
  const Model model = open_model(checkpoint_path(options.model));
  for (const std::string& warning : model.warnings) session.warn(warning);
  if (!options.save.empty()) check_hugging_face_folder(model, options.save, {});
  const Recipe recipe = resolve(method_options(options), model.config);
  const Calibration calibration = read_calibration(options, model);
  const auto message = session.message_function();
  const Rates rates = measure_rates(model, static_cast<std::int64_t>(calibration.windows.front().size()), recipe, session.pool());
  const std::string plan = forecast_text(forecast(model, calibration, recipe, rates), calibration, recipe);
  if (options.dry_run) {
    session.print(plan + "\n");
    return ExitCode::Done;
  }
  message(plan);
  session.progress().start(std::string(recipe.method->name));
  KeptRun kept(options, model, calibration, recipe, session);
  CompressResult result = compress(model, calibration, recipe, session.pool(), session.progress_function(), message, kept.journal());
  session.progress().clear();
  if (!options.output.empty()) save_model(result.model, options.output);
  if (!options.save.empty()) {
    session.progress().start("writing");
    for (const std::string& note : write_hugging_face_folder(result.model, options.save, {}, session.pool(), session.progress_function()).notes) message(options.save + ": " + note);
    session.progress().clear();
  }
  kept.finish();
  session.print(result.summary + "\n");
  if (!texts.empty()) evaluate(options, result.model, recipe.compute, texts, session);
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

std::string method_help() {
  std::string text = "how to compress:";
  for (const Method& method : methods()) text += "\n" + std::string(method.name) + ": " + std::string(method.help);
  return text;
}

void declare(CLI::App& app, Options& options) {
  CompressOptions& method = options.compress;
  app.add_option("model", options.model, "model to compress: .miq, GGUF or Hugging Face folder")->required();
  app.add_option("calibration", options.calibration, "text to calibrate on: a file, NAME=PATH, or a name found in --data-dir")->required();
  app.add_option("-o,--output", options.output, "container to write");
  app.add_option("--save", options.save, "also a folder that transformers loads, with the compressed weights as floats (convert-checkpoint --to hf)");
  app.add_flag("--dry-run", options.dry_run, "print what the run would take (memory, disk, size of the output, time) and end");
  app.add_flag("--resume", options.resume, "go on with what an interrupted run of the same command left in OUT.miq.journal; the result is the same, byte for byte");
  app.add_flag("--no-journal", options.no_journal, "keep nothing for --resume (saves disk space: twice the hidden states of all windows)")->excludes("--resume");
  app.add_option("--data-dir", options.data_dir, "folder with the texts of wikitext2, ptb, c4 and others");
  app.add_option("--dataset", options.datasets, "where a text is: NAME=PATH");

  app.add_option("--method", method.method, method_help())->capture_default_str();
  app.add_option("--sparsity", method.sparsity, "share of the weights that become zero, such as 0.5");
  app.add_option("--prune-n,--prunen", method.prune_n, "with --prune-m: n zeros in every m consecutive input channels");
  app.add_option("--prune-m,--prunem", method.prune_m, "see --prune-n");
  app.add_option("--sparsity-allocation", options.sparsity_allocation, "mi, mixed: global (default) spreads the zeros over the model, even does not")
      ->check(CLI::IsMember({"even", "global"}));
  app.add_option("--wbits", method.wbits, "bits of a weight: 2, 3, 4, 6 or 8; the average where a method mixes them");
  app.add_option("--target-avg-bits", method.target_avg_bits, "code bits of a kept weight on average, never above");
  app.add_option("--target-bpw", method.target_bpw,
                 "mi, mixed: effective bits of a weight on average, never above: codes, scales, zero points, masks and groups");
  app.add_option(
         "--allocator", options.allocator,
         "who gets how many bits: global (mi, mixed): by predicted loss over the whole model; per-layer (mi, mixed): the same budget "
         "for every layer; "
         "redundancy (mi, mixed): groups that share much information get less; quantile, budget (enhanced, mi, mixed): "
         "by rank, or by a line through the scores")
      ->check(CLI::IsMember({"global", "per-layer", "redundancy", "quantile", "budget"}));
  app.add_option("--importance-weights", method.importance_weights,
                 "enhanced: five numbers, of mean size, energy, spikiness, weights and cost of removal of a channel; equal by default")
      ->delimiter(',')
      ->expected(5);
  app.add_option("--bit-method", options.bit_method, "enhanced: budget (default), or quantile: equal fifths, shifted where there is a target")
      ->check(CLI::IsMember({"budget", "quantile"}));
  app.add_option("--grouping", options.grouping, "mi, mixed: which input channels share a scale and a width")
      ->check(CLI::IsMember({"contiguous", "sensitivity", "mi", "mi-sensitivity", "mi-equal", "random"}));
  app.add_option("--mi-estimator", options.mi_estimator,
                 "mutual information from the covariance (gaussian, the default) or from 8 bins a channel (binned, slower)")
      ->check(CLI::IsMember({"gaussian", "binned"}));
  app.add_option("--clustering", options.clustering, "groupings by mutual information: spectral (default) or hierarchical")
      ->check(CLI::IsMember({"spectral", "hierarchical"}));
  app.add_option("--use-mi-grouping", options.use_mi_grouping, "mi: 1 (default), or 0: contiguous groups")->check(CLI::Range(0, 1));
  app.add_option("--group-size", method.group_size, "input channels in a group; mi, mixed: 64, or 128 with zeros; others: a whole row");
  app.add_option("--n-groups", method.n_groups, "groups in an input, instead of --group-size");
  app.add_option("--levels", method.levels, "widths that enhanced, mi and mixed choose from: 2,3,4,6,8")->delimiter(',');
  app.add_option("--damping,--percdamp", method.damping, "added to the Hessian's diagonal, as a share of its mean")->capture_default_str();

  app.add_option("--documents", options.documents, "lines: each line tokenised alone, without BOS (default for c4); whole: the text at once")
      ->check(CLI::IsMember({"lines", "whole"}));
  app.add_option("--sampling", options.sampling, "random: as SparseGPT draws with --seed; in-order: the first windows")
      ->check(CLI::IsMember({"random", "in-order"}))
      ->capture_default_str();
  app.add_option("--nsamples", options.windows, "calibration windows")->capture_default_str();
  app.add_option("--seqlen", options.seqlen, "tokens of a calibration window; by default the smaller of the model's maximum and 2048")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "of the sampling and the clustering")->capture_default_str();
  app.add_option("--dtype", options.dtype, "of the forward pass: float32, bfloat16, or auto: bfloat16 where the processor has it")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}))
      ->capture_default_str();

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
                      "  miq-compress model.miq text.txt --method sparsegpt --sparsity 0.5 --wbits 4 -o small.miq --eval wikitext2 --data-dir data"});
}

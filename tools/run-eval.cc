// run-eval MODEL…: every model measured the same way, one after another, and a report side by side.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include "miq/base/version.h"
#include "miq/converters/open_model.h"
#include "miq/evaluate/metrics.h"
#include "miq/evaluate/token_lines.h"
#include "miq/formats/atomic_file.h"
#include "miq/formats/digest.h"
#include "miq/formats/mapped_file.h"
#include "miq/tools/checkpoint_path.h"
#include "miq/tools/cuda_kernels.h"
#include "miq/tools/device_option.h"
#include "miq/tools/machine.h"
#include "miq/tools/program.h"
#include "miq/tools/report_outputs.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> models, listed_models, datasets, tasks;
  std::string metrics = "all", data_dir, dtype, device = "cpu", protocol = "gptq";
  std::string reference, scratch, losses, cache;
  bool compare = false, item_scores = false, no_cache = false;
  OutputFlags outputs;
  std::int64_t seqlen = 0, windows = 0, limit = 0;
  std::uint64_t memory = 0, cache_limit = CacheOptions::kDefaultLimit;
};

struct Named {
  std::string name, path;
};

// NAME=PATH, or a path whose name is its last part without ending.
Named named_model(const std::string& argument) {
  std::error_code ignored;
  const std::size_t equals = argument.find('=');
  Named model{{}, argument};
  if (equals != std::string::npos && equals > 0 && !fs::exists(argument, ignored))
    model = {argument.substr(0, equals), argument.substr(equals + 1)};
  const std::string given = model.path;
  model.path = checkpoint_path(given);  // a name in the hub's cache becomes its folder
  if (model.name.empty()) {
    fs::path path = fs::path(given).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
    const std::string ending = path.extension().string();
    const bool known =
        ending == ".miq" || ending == ".gguf" || ending == ".safetensors" || ending == ".bin" || ending == ".pt" || ending == ".pth";
    model.name = (known ? path.stem() : path.filename()).string();
  }
  return model;
}

std::vector<Named> named_models(const std::vector<std::string>& arguments) {
  std::vector<Named> models;
  std::set<std::string> names;
  for (const std::string& argument : arguments) {
    Named model = named_model(argument);
    const std::string wanted = model.name;
    for (int number = 2; !names.insert(model.name).second; ++number) model.name = wanted + " (" + std::to_string(number) + ")";
    models.push_back(std::move(model));
  }
  return models;
}

std::vector<Text> load_texts(const Options& options, RowJoin join) {
  std::vector<std::string> wanted = options.datasets;
  if (wanted.empty() && !options.data_dir.empty()) wanted = texts_found(options.data_dir);
  std::vector<Text> texts;
  for (const std::string& argument : wanted) {
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (name.empty()) throw UsageError("--dataset " + argument + ": a name is missing. Write NAME=PATH");
    if (equals == std::string::npos && options.data_dir.empty()) {
      throw UsageError("--dataset " + name + ": no file given. Write " + name + "=PATH, or say where the data is with --data-dir");
    }
    for (const Text& text : texts) {
      if (text.name == name) throw UsageError("--dataset: '" + name + "' is given twice. Use another name for the second file");
    }
    texts.push_back(load_text(name, equals == std::string::npos ? find_text(options.data_dir, name) : argument.substr(equals + 1), join));
  }
  return texts;
}

// The tasks that were named, or those found in --data-dir.
std::vector<ZeroShotTask> load_tasks(const Options& options) {
  std::vector<std::string> wanted = options.tasks;
  if (wanted.empty() && !options.data_dir.empty()) wanted = tasks_found(options.data_dir);
  std::vector<ZeroShotTask> tasks;
  for (const std::string& argument : wanted) {
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    if (name.empty()) throw UsageError("--tasks " + argument + ": a name is missing. Write NAME=FILE");
    if (equals == std::string::npos && options.data_dir.empty()) {
      throw UsageError("--tasks " + name + ": no file given. Write " + name + "=FILE, or say where the data is with --data-dir");
    }
    for (const ZeroShotTask& task : tasks) {
      if (task.name == name) throw UsageError("--tasks: '" + name + "' is given twice. Use another name for the second file");
    }
    tasks.push_back(load_task(name, equals == std::string::npos ? find_task(options.data_dir, name) : argument.substr(equals + 1), options.limit));
  }
  return tasks;
}

EvaluationOptions evaluation_options(const Options& options, Session& session) {
  EvaluationOptions evaluation;
  evaluation.metrics = choose_metrics(options.metrics);
  evaluation.perplexity.protocol = options.protocol;
  evaluation.perplexity.seqlen = options.seqlen;
  evaluation.perplexity.windows = options.windows;
  evaluation.perplexity.walk.memory_bytes = options.memory;
  evaluation.perplexity.walk.ranks = &session.ranks();
  evaluation.perplexity.walk.message = session.message_function();
  evaluation.device = chosen_device(options.device, session);
  evaluation.type = compute_type(options.dtype, evaluation.device);
  evaluation.kernels = kernels_if_there(evaluation.device, session);
  const RowJoin join = protocol(options.protocol).join;
  if (std::find(evaluation.metrics.begin(), evaluation.metrics.end(), "zeroshot") != evaluation.metrics.end()) {
    evaluation.zeroshot.tasks = load_tasks(options);
    evaluation.zeroshot.item_scores = options.item_scores;
    evaluation.zeroshot.walk.memory_bytes = options.memory;
    if (evaluation.zeroshot.tasks.empty() && options.metrics.find("all") == std::string::npos)
      throw UsageError("metric zeroshot needs questions. Give --tasks NAME=FILE, or --data-dir FOLDER with zeroshot/TASK/validation.jsonl in it");
  }
  const bool wants_texts = std::any_of(evaluation.metrics.begin(), evaluation.metrics.end(),
                                       [](const std::string& metric) { return metric == "ppl" || metric == "divergence"; });
  if (!wants_texts) return evaluation;
  evaluation.texts = load_texts(options, join);
  if (evaluation.texts.empty()) {
    if (options.metrics.find("all") == std::string::npos)
      throw UsageError("metrics ppl and divergence need a text. Give --dataset NAME=PATH or --data-dir FOLDER");
    session.message_function()("no text given (--dataset, --data-dir): perplexity and divergence are left out");
  }
  return evaluation;
}

// Whom the others are compared with: one of the models, or another one; nobody.
struct Reference {
  std::optional<std::size_t> number;  // of the models
  Named other;                        // where it is none of them
  bool wanted = false, named = false;
};

Reference choose_reference(const Options& options, const std::vector<Named>& models, const EvaluationOptions& evaluation) {
  Reference reference;
  const bool asked = std::find(evaluation.metrics.begin(), evaluation.metrics.end(), "divergence") != evaluation.metrics.end();
  reference.named = !options.reference.empty();
  if (options.reference == "none" || evaluation.texts.empty() || (!asked && !reference.named)) return reference;
  if (!asked) throw UsageError("--reference is for the metric divergence. Add it to --metrics");
  if (!reference.named) {
    if (models.size() < 2) {
      if (options.metrics.find("all") == std::string::npos)
        throw UsageError("metric divergence needs a second model, or --reference MODEL to compare with");
      return reference;
    }
    reference.wanted = true;
    reference.number = 0;
    return reference;
  }
  reference.wanted = true;
  reference.other = named_model(options.reference);
  for (std::size_t i = 0; i < models.size() && !reference.number; ++i) {
    if (models[i].name == options.reference || models[i].path == reference.other.path || options.models[i] == options.reference) reference.number = i;
  }
  return reference;
}

// For what is kept of the reference: a folder on a disk, where the system has one for this.
std::string scratch_folder(const Options& options) {
  std::error_code ignored;
  if (!options.scratch.empty()) return options.scratch;
  if (std::getenv("TMPDIR") == nullptr && fs::is_directory("/var/tmp", ignored)) return "/var/tmp";
  return fs::temp_directory_path().string();
}

// Earlier results: no model is opened.
ExitCode compare(const Options& options, Session& session) {
  if (!session.ranks().first()) return ExitCode::Done;
  ReportOutputs outputs(options.outputs);
  std::vector<NamedReport> reports;
  for (const std::string& path : options.models) reports.push_back({fs::path(path).stem().string(), read_report(path)});
  outputs.finish(compare_reports(std::move(reports)), session);
  return ExitCode::Done;
}

// Where results are kept: --cache, or the user's folder for such things; empty: nowhere.
std::string cache_folder(const Options& options) {
  if (options.no_cache) return {};
  if (!options.cache.empty()) return options.cache;
  if (const char* caches = std::getenv("XDG_CACHE_HOME"); caches && caches[0] == '/') return std::string(caches) + "/miq";
  if (const char* home = std::getenv("HOME"); home && home[0] == '/') return std::string(home) + "/.cache/miq";
  return {};
}

CacheOptions cache_options(const Options& options, Session& session) {
  CacheOptions cache;
  cache.folder = cache_folder(options);
  cache.message = session.message_function();
  cache.limit = options.cache_limit;
  // The program's own bytes stand for its arithmetic: another build measures anew.
  cache.conditions = {{"version", version()},
                      {"program", digest_of(map_file("/proc/self/exe").bytes())},
                      {"torch_version", torch_version()},
                      {"processor", processor_name()}};
  return cache;
}

// Opens a model, with its warnings said.
std::shared_ptr<const Model> open(const Named& named, Session& session) {
  auto model = std::make_shared<const Model>(open_model(named.path));
  for (const std::string& warning : model->warnings) session.warn(warning);
  return model;
}

ExitCode evaluate(const Options& options, Session& session) {
  give_back_what_is_freed();
  const std::vector<Named> models = named_models(options.models);
  EvaluationOptions evaluation = evaluation_options(options, session);
  const Reference reference = choose_reference(options, models, evaluation);
  std::unique_ptr<DivergenceReference> compared_with;
  const auto keep_reference = [&](const std::string& name, std::shared_ptr<const Model> model) {
    compared_with = std::make_unique<DivergenceReference>(name, std::move(model), evaluation.type, ScratchFolder(scratch_folder(options)), evaluation.device,
                                                          evaluation.kernels);
    evaluation.reference = compared_with.get();
    evaluation.reference_named = reference.named;
  };
  const bool first = session.ranks().first();  // of several processes it alone writes
  ReportOutputs outputs(first ? options.outputs : OutputFlags{});
  // Written to while models are measured; opened now, as the other files are.
  std::unique_ptr<AtomicFile> losses;
  if (!options.losses.empty() && first) losses = std::make_unique<AtomicFile>(options.losses);
  if ((!evaluation.texts.empty() || !evaluation.zeroshot.tasks.empty()) && first) evaluation.cache = cache_options(options, session);
  Report report;
  report.version = version();
  report.torch_version = torch_version();
  report.device = evaluation.device.str();
  report.device_name = name_of_device(evaluation.device);
  report.dtype = compute_type_name(evaluation.type);
  report.threads = session.pool().threads();
  report.processes = session.ranks().size();
  report.protocol = options.protocol;
  std::string said;  // the last message about conditions: once is enough while they stay the same
  // The reference first: what the others are compared with is kept while its own losses are measured.
  std::vector<std::size_t> order;
  if (reference.number) order.push_back(*reference.number);
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (reference.number != i) order.push_back(i);
  }
  report.models.resize(models.size());
  if (reference.wanted && !reference.number) {
    keep_reference(reference.other.name, open(reference.other, session));
    compared_with->digest = weights_digest(compared_with->model(), session.pool());
  }
  for (std::size_t done = 0; done < order.size(); ++done) {
    const std::size_t i = order[done];
    // One estimate for the whole run: models of a comparison take about the same time.
    const ProgressFunction progress = [&, draw = session.progress_function()](const Progress& now) {
      const std::string stage =
          models[i].name + " (" + std::to_string(done + 1) + " of " + std::to_string(models.size()) + "), " + std::string(now.stage);
      draw({stage, static_cast<double>(done) + now.done / now.total, static_cast<double>(models.size())});
    };
    MemoryWatch memory;
    progress({"opening", 0, 1});
    const std::shared_ptr<const Model> opened = open(models[i], session);
    const Model& model = *opened;
    if (reference.number == i) keep_reference(models[i].name, opened);
    if (losses) {
      evaluation.token_sink = [&, i](const TextMeasures& measures) {
        const std::string lines = token_lines(models[i].name, measures);
        losses->write(Bytes(reinterpret_cast<const std::uint8_t*>(lines.data()), lines.size()));
      };
    }
    if (!evaluation.texts.empty()) {
      const std::int64_t seqlen = window_length(protocol(options.protocol), model.config, options.seqlen);
      const std::string conditions = "windows of " + std::to_string(seqlen) + " tokens, protocol " + options.protocol + ", " + report.dtype;
      if (conditions != said) session.message_function()(conditions);
      said = conditions;
    }
    report.models[i] = evaluate_model(model, models[i].path, evaluation, memory, session.pool(), progress);
    report.models[i].name = models[i].name;
  }
  if (losses) losses->commit();
  limit_cache(evaluation.cache);
  if (first) outputs.finish(report, session);
  for (const ModelReport& model : report.models) {
    for (const std::string& failure : model.failures) session.warn(model.name + ": " + failure);
  }
  return report.failed() ? ExitCode::Degraded : ExitCode::Done;
}

ExitCode run(Options& options, Session& session) {
  options.models.insert(options.models.end(), options.listed_models.begin(), options.listed_models.end());
  if (options.models.empty()) throw UsageError(options.compare ? "no report given. Give report.json files of earlier runs" : "no model given. Give a .miq, a GGUF file or a folder");
  return options.compare ? compare(options, session) : evaluate(options, session);
}

std::string metric_help() {
  std::string help = "all, or a list of";
  for (const Metric& metric : metrics())
    help += (&metric == &metrics().front() ? " " : "; ") + std::string(metric.name) + ": " + std::string(metric.summary);
  return help;
}

std::string protocol_help() {
  std::string help;
  for (const Protocol& row : protocols()) help += (help.empty() ? "" : "; ") + std::string(row.name) + ": " + std::string(row.summary);
  return help;
}

void declare(CLI::App& app, Options& options) {
  app.add_option("models,--model-path", options.models, "models to compare: .miq, GGUF, Hugging Face folder; NAME=PATH names one; with --compare report.json files");
  app.add_option("--model-paths", options.listed_models, "the same, as a list separated by commas")->delimiter(',');
  app.add_flag("--compare", options.compare, "put earlier results (report.json files) side by side and show what changed; no model is opened");
  app.add_option("--metrics", options.metrics, metric_help())->capture_default_str();
  app.add_option("--dataset", options.datasets,
                 "a text: NAME=PATH, or NAME found in --data-dir. wikitext2, ptb and c4 select that text's preparation")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--data-dir", options.data_dir, "folder with the texts; without --dataset those of wikitext2, ptb and c4 that are there");
  app.add_option("--protocol", options.protocol, protocol_help())->capture_default_str();
  app.add_option("--seqlen", options.seqlen,
                 "tokens in a window; by default the smaller of the model's maximum and 2048 (or the protocol's own)")
      ->check(CLI::PositiveNumber);
  app.add_option("--windows", options.windows, "at most the first N windows of each text; by default all")->check(CLI::PositiveNumber);
  app.add_option("--tasks", options.tasks,
                 "zero-shot questions: NAME found in --data-dir/zeroshot/NAME/validation.jsonl, or NAME=FILE. boolq, piqa, hellaswag, "
                 "winogrande, arc_easy, arc_challenge and openbookqa select that data set's fields; any other has context, choices, answer")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--limit", options.limit, "at most the first N questions of each task; by default all")->check(CLI::PositiveNumber);
  app.add_flag("--item-scores", options.item_scores, "keep the log-likelihood of every choice in report.json");
  app.add_option("--dtype", options.dtype, "float32, bfloat16, or auto: bfloat16 where the processor has it; by default float32, on a GPU bfloat16")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}));
  declare_device_option(app, options.device);
  app.add_option("--reference", options.reference,
                 "the model that the others are compared with: one of them by name or path, or another; by default the first; none: no comparison");
  app.add_option("--scratch", options.scratch, "folder for what is kept of the reference, in unnamed files; by default /var/tmp or $TMPDIR");
  app.add_option("--cache", options.cache,
                 "folder where results are kept and an interrupted run goes on from; by default $XDG_CACHE_HOME/miq or ~/.cache/miq");
  app.add_option("--cache-limit", options.cache_limit,
                 "how much that folder may take, such as 500MB: results not used for the longest time are removed at the end; by default 2GB")
      ->transform(CLI::AsSizeValue(true));
  app.add_flag("--no-cache", options.no_cache, "measure everything anew and keep nothing");
  app.add_option("--losses", options.losses, "write the loss of every token here, as JSON lines: one a window");
  app.add_option("--memory", options.memory,
                 "cap on the program's anonymous memory, such as 2GB: fewer windows at once, one layer at a time where two do not fit; the figures stay the "
                 "same. On a GPU: of its memory; windows without room there wait in the host's")
      ->transform(CLI::AsSizeValue(true));
  declare_output_options(app, options.outputs);
}

}  // namespace
}  // namespace miq

int main(int argc, char** argv) {
  using namespace miq;
  Options options;
  return run_program(
      argc, argv,
      {"run-eval", "Evaluates models side by side: perplexity, zero-shot accuracy, size, bits per weight, sparsity, speed, memory.",
       [&](CLI::App& app) { declare(app, options); }, [&](Session& session) { return run(options, session); },
       "Example:\n  run-eval dense.miq small=mixed.miq --dataset wikitext2=wiki.test.raw --output report.json --html report.html\n"
       "Exit status: 0 done, 1 failed, 2 wrong use, 3 done but a metric gave no value", true});
}

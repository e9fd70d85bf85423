// The driver: a plan where the method needs one, then layer by layer behind what is already compressed.
//
// A layer is visited twice: once with its dense weights, to see what its linears read, and once as it
// will be stored, to make the inputs of the next one. With --true-sequential it is visited once, in stages: the linears of a stage are compressed
// before the next stage is computed. Methods that need no calibration skip all of it.
#include "miq/compress/compress.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "miq/base/error.h"
#include "miq/compress/channel_scaling.h"
#include "miq/compress/dense.h"
#include "miq/compress/device_memory.h"
#include "miq/compress/once.h"
#include "miq/compress/place_error.h"
#include "miq/compress/plan.h"
#include "miq/compress/report.h"
#include "miq/compress/reshape.h"
#include "miq/compress/rank_journal.h"
#include "miq/compress/rank_sums.h"
#include "miq/compress/rank_work.h"
#include "miq/compress/run_journal.h"
#include "miq/compress/solve.h"
#include "miq/compress/tune.h"
#include "miq/compress/walk.h"

namespace miq {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

using SolvedMatrices = std::vector<std::pair<FinishedMatrix, double>>;  // and the seconds that each took

class Driver {
 public:
  Driver(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool, const ProgressFunction& progress,
         const MessageFunction& message, RankJournal* journal, const WorkingMemory& memory, Ranks& ranks, const ComputeDevice& where)
      : dense_(model), calibration_(calibration), recipe_(recipe), pool_(pool), progress_(progress), message_(message), journal_(journal), memory_(memory), ranks_(ranks), where_(where),
        report_(recipe_) {
    result_.model = model;
  }

  CompressResult run() {
    Model& model = result_.model;
    compress_layers();
    std::optional<TuneResult> tuned;
    if (recipe_.tune != Tune::None) tuned = tune_values();
    model.method = recipe_.to_json();
    if (!where_.device.is_cpu()) model.method["device"] = "cuda";  // other roundings than the processor's
    if (recipe_.auto_groups) model.method["group_size_found"] = widest_group();
    model.calibration = needs_calibration(recipe_) || tuned || recipe_.channel_scaling ? calibration_.description : Json::object();
    model.statistics = report_.statistics(model);
    result_.fallbacks = report_.fallbacks();
    result_.unseen = report_.unseen();
    result_.summary = report_.summary(model);
    if (tuned) {
      model.statistics["tuning"] = std::move(tuned->statistics);
      result_.summary += "\n" + tuned->summary;
    }
    return std::move(result_);
  }

 private:
  void compress_layers() {
    const ForwardPass forward(result_.model, recipe_.compute, where_.used() ? Kernels::Device : Kernels::Best, where_.device, where_.kernels);
    const std::int64_t finished = journal_ ? journal_->layers() : 0;
    const bool known = journal_ && journal_->plan();  // the plan
    const bool planned = recipe_.method->layout == Layout::Groups && !known;
    // Units of progress: one visit of all windows to a layer.
    visits_ = forward.layers() * (needs_calibration(recipe_) ? 3.0 : 1.0);
    const double plan_visits = planned ? forward.layers() * 2.5 : 0;
    const double all = static_cast<double>(std::max<std::int64_t>(1, forward.layers()));
    tuning_ = recipe_.tune == Tune::None ? 0 : forward.layers() * (1.5 + 7.0 * recipe_.tune_epochs);
    total_ = plan_visits + visits_ * (1 - static_cast<double>(finished) / all) + tuning_;
    if (journal_) {
      total_ -= plan_visits / all * (kPlanForwardShare * static_cast<double>(journal_->measured()) + kPlanBackwardShare * static_cast<double>(journal_->walked_back()));
    }
    if (known) plan_ = *journal_->plan();
    if (planned) {
      plan_ = make_plan(forward, calibration_, recipe_, pool_,
                        [&](std::string_view stage, double share) { advance(stage, share * plan_visits); }, journal_, memory_, ranks_, where_);
      if (journal_) journal_->keep_plan(plan_);
    }
    std::optional<Walk> walk;
    if (needs_calibration(recipe_) && finished < forward.layers()) walk.emplace(forward, own_windows(ranks_, calibration_), pool_, memory_);
    for (std::int64_t l = 0; l < finished; ++l) restore_layer(l);
    if (finished > 0 && walk) journal_->take_states([&](std::int64_t w, const at::Tensor& state) { walk->restore(w, state); });
    for (std::int64_t l = finished; l < forward.layers(); ++l) compress_layer(forward, walk ? &*walk : nullptr, l);
    if (recipe_.quantize && report_.quantized_channels() == 0) {
      throw UsageError("no channel was quantized: the model has no linear layers to compress");
    }
  }

  // The layers come from the journal where there is one; the epochs begin anew.
  TuneResult tune_values() {
    TuneOptions options;
    options.what = recipe_.tune;
    options.epochs = recipe_.tune_epochs;
    options.seed = recipe_.seed;
    options.compute = recipe_.compute;
    return tune(dense_, result_.model, calibration_, options, pool_, [&](std::string_view stage, double share) { advance(stage, share * tuning_); }, message_);
  }

  void advance(std::string_view stage, double work) {
    done_ += work;
    if (progress_) progress_({stage, done_, total_});
  }

  // As an earlier run left it.
  void restore_layer(std::int64_t layer) {
    for (FinishedMatrix& matrix : journal_->matrices(layer)) {
      Tensor& tensor = result_.model.tensors.at(matrix.name);
      tensor = memory_.keep(std::move(matrix.stored));
      report_.add(layer, matrix.rule, matrix.name, matrix.result, tensor, plan_of(layer, matrix.rule), 0);
    }
  }

  std::int64_t widest_group() const {
    std::int64_t most = 0;
    for (const LayerPlan& layer : plan_) {
      for (const auto& [place, site] : layer.places) {
        for (std::int64_t g = 0; g < site.channels.groups(); ++g) {
          most = std::max(most, site.channels.starts[static_cast<std::size_t>(g) + 1] - site.channels.starts[static_cast<std::size_t>(g)]);
        }
      }
    }
    return most;
  }

  const SitePlan* plan_of(std::int64_t layer, std::string_view rule) const {
    if (plan_.empty()) return nullptr;
    for (const LayerTensor& tensor : layer_tensors(result_.model.config, layer)) {
      if (tensor.name == rule) return &plan_[static_cast<std::size_t>(layer)].places.at(tensor.place());
    }
    return nullptr;
  }

  void compress_layer(const ForwardPass& forward, Walk* walk, std::int64_t layer) {
    const bool more = walk && layer + 1 < forward.layers();
    if (walk && recipe_.true_sequential) {
      compress_in_stages(forward, *walk, layer, more);
    } else {
      compress_at_once(forward, walk, layer, more);
    }
    if (journal_) journal_->keep_layer(layer, std::exchange(finished_, {}), more ? states_of(walk->hidden()) : StateSource{});
    if (walk) advance(layer_stage("", layer, forward.layers()), visit(walk));
  }

  // Of the three that a walked layer is worth.
  double visit(const Walk* walk) const { return visits_ / static_cast<double>(result_.model.config.layers.size()) / (walk ? 3 : 1); }

  // Every place sees the layer as it was. Places in batches too: the weights stay until the last batch has passed.
  void compress_at_once(const ForwardPass& forward, Walk* walk, std::int64_t layer, bool more) {
    const std::string stage = layer_stage("", layer, forward.layers());
    std::optional<LayerWeights> before;
    if (walk) before = forward.load_layer(layer);
    const auto batches = place_batches(result_.model.config, layer, walk && needs_hessian(recipe_) ? memory_.hessians : 0);
    for (std::size_t b = 0; b < batches.size(); ++b) {
      std::map<InputPlace, InputStatistics> inputs;
      if (walk) {
        inputs = observe(layer, batches[b], [&](const Walk::BatchObserver& observer) { walk->observe(*before, observer, false); });
        if (b + 1 == batches.size()) before.reset();
        advance(stage, visit(walk) / static_cast<double>(batches.size()));
      }
      compress_places(layer, batches[b], inputs);
    }
    advance(stage, walk && batches.empty() ? 2 * visit(walk) : visit(walk));
    if (more) walk->advance(forward.load_layer(layer));
  }

  // Every stage sees what the compressed ones before it make.
  void compress_in_stages(const ForwardPass& forward, Walk& walk, std::int64_t layer, bool more) {
    LayerWeights weights = forward.load_layer(layer);
    const auto batches = place_batches(result_.model.config, layer, needs_hessian(recipe_) ? memory_.hessians : 0);
    if (batches.empty()) {
      if (more) walk.advance(weights);
      return advance(layer_stage("", layer, forward.layers()), 2 * visit(&walk));
    }
    for (InputSite site : kInputSites) {
      walk.reach(weights, site);
      for (const auto& batch : batches) {
        std::vector<InputPlace> places;
        std::copy_if(batch.begin(), batch.end(), std::back_inserter(places), [&](InputPlace place) { return place.site == site; });
        if (places.empty()) continue;
        std::map<InputPlace, InputStatistics> inputs = observe(layer, places, [&](const Walk::BatchObserver& observer) { walk.show(weights, site, observer); });
        compress_places(layer, places, inputs);
      }
      take_compressed(forward, site, weights);
      advance(layer_stage("", layer, forward.layers()), visit(&walk) / 2);
    }
    if (more) walk.finish(weights);
  }

  // The linears that read at a site, as they are stored now.
  void take_compressed(const ForwardPass& forward, InputSite site, LayerWeights& weights) const {
    for (auto& [name, tensor] : forward.load_linears(weights.index, site)) weights.tensors.insert_or_assign(name, std::move(tensor));
    forward.prepare(weights);
  }

  // What `places` (in rising order) read, from a visit that shows it.
  std::map<InputPlace, InputStatistics> observe(std::int64_t layer, std::span<const InputPlace> places, const std::function<void(const Walk::BatchObserver&)>& visit) {
    std::map<InputPlace, InputStatistics> inputs;
    std::map<InputPlace, HessianSum> sums;
    std::map<InputPlace, Once> once;
    visit([&](InputPlace place, std::span<const at::Tensor> batch) {
      if (!std::binary_search(places.begin(), places.end(), place)) return;
      once[place].run({[&] {
                         if (!needs_hessian(recipe_)) return;
                         naming([&] { return place_name(result_.model.config, layer, place); },
                                [&] { sums.try_emplace(place, batch.front().size(1), where_).first->second.add(batch, pool_); });
                       },
                       [&] {
                         InputStatistics& input = inputs[place];
                         for (const at::Tensor& window : batch) {
                           if (needs_channel_statistics(recipe_)) accumulate(input.channels, window, pool_);
                           input.tokens += window.size(0);
                         }
                       }});
    });
    if (!ranks_.alone()) RankWork(ranks_, result_.model.config, layer, places).sum_inputs(ranks_, recipe_, sums, inputs, where_);
    for (auto& [place, sum] : sums) {
      inputs[place].hessian = naming([&, &place = place] { return place_name(result_.model.config, layer, place); }, [&sum = sum] { return sum.mean(); });
      sum = HessianSum(0, where_);
    }
    return inputs;
  }

  // Takes the inputs away.
  void compress_places(std::int64_t layer, std::span<const InputPlace> places, std::map<InputPlace, InputStatistics>& inputs) {
    const RankWork work(ranks_, result_.model.config, layer, places);
    SolvedMatrices solved;
    for (InputPlace place : places) {
      compress_place(layer, place, std::exchange(inputs[place], {}), work, solved);
      if (ranks_.alone()) take_solved(layer, std::exchange(solved, {}));
    }
    if (!ranks_.alone()) take_solved(layer, RankWork::exchange(ranks_, result_.model, solved, layer));
  }

  // Of this place, what is this rank's to solve.
  void compress_place(std::int64_t layer, InputPlace place, const InputStatistics& input, const RankWork& work, SolvedMatrices& done) {
    const auto start = Clock::now();
    const Architecture& table = architecture(result_.model.config.architecture);
    const LayerPlan* layer_plan = plan_.empty() ? nullptr : &plan_[static_cast<std::size_t>(layer)];
    const SitePlan* site_plan = layer_plan ? &layer_plan->places.at(place) : nullptr;
    std::vector<MatrixJob> jobs;
    std::vector<std::string> names;
    std::int64_t weights = 0;
    for (const LayerTensor& rule : layer_tensors(result_.model.config, layer)) {
      if (!rule.linear() || rule.place() != place || !work.solves(rule.name)) continue;
      names.push_back(layer_tensor_name(table, layer, rule.name));
      MatrixJob& job = jobs.emplace_back();
      job.rule = rule.name;
      job.weights = to_torch(result_.model.tensors.at(names.back()), names.back(), at::kFloat);
      if (layer_plan) job.plan = &layer_plan->matrices.find(rule.name)->second;
      weights += job.weights.numel();
    }
    if (jobs.empty()) return;
    std::vector<MatrixResult> solved = solve_place(recipe_, jobs, input, site_plan, pool_, where_);
    if (place.expert >= 0 && needs_calibration(recipe_)) {
      for (MatrixResult& result : solved) result.expert_tokens = input.tokens;
    }
    pool_.for_each(static_cast<std::int64_t>(jobs.size()), [&](std::int64_t unit) { store(names[static_cast<std::size_t>(unit)], solved[static_cast<std::size_t>(unit)]); });
    const double seconds = seconds_since(start);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const double share = static_cast<double>(jobs[i].weights.numel()) / static_cast<double>(weights);
      solved[i].values = at::Tensor();
      done.emplace_back(FinishedMatrix{jobs[i].rule, names[i], std::move(solved[i]), result_.model.tensors.at(names[i])}, seconds * share);
    }
  }

  // This rank's are in the model already.
  void take_solved(std::int64_t layer, SolvedMatrices solved) {
    for (auto& [matrix, seconds] : solved) {
      Tensor& tensor = result_.model.tensors.at(matrix.name);
      if (!ranks_.alone()) tensor = memory_.keep(std::move(matrix.stored));
      const std::string line = report_.add(layer, matrix.rule, matrix.name, matrix.result, tensor, plan_of(layer, matrix.rule), seconds);
      if (message_) message_(line);
      if (!journal_) continue;
      matrix.result.packed.reset();
      finished_.push_back({std::move(matrix.rule), std::move(matrix.name), std::move(matrix.result), tensor});
    }
  }

  // Replaces the tensor by the compressed one, decoding to the same element type.
  void store(const std::string& name, const MatrixResult& solved) {
    Tensor& tensor = result_.model.tensors.at(name);
    const DType dtype = replacement_dtype(tensor);
    tensor = memory_.keep(solved.packed ? pack(*solved.packed, dtype) : encode_best(dense_from_torch(solved.values, dtype), false));
  }

  const Model& dense_;
  const Calibration& calibration_;
  const Recipe recipe_;
  ThreadPool& pool_;
  const ProgressFunction& progress_;
  const MessageFunction& message_;
  RankJournal* journal_;
  const WorkingMemory memory_;
  Ranks& ranks_;
  const ComputeDevice where_;
  CompressionReport report_;
  CompressResult result_;
  std::vector<LayerPlan> plan_;
  std::vector<FinishedMatrix> finished_;  // of this layer, for the journal
  double visits_ = 0, tuning_ = 0, total_ = 1, done_ = 0;
};

}  // namespace

void require_runs_there(const Recipe& recipe, const Ranks& ranks, const ComputeDevice& where) {
  if (!reshapes(*recipe.method) && recipe.tune == Tune::None && !recipe.channel_scaling) return;
  if (!ranks.alone()) throw UsageError("slicegpt, structured, --tune and --channel-scaling run in one process; start it without mpirun or srun");
  if (where.used()) throw UsageError("slicegpt, structured, --tune and --channel-scaling run on the processor; give --device cpu");
}

CompressResult compress(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool,
                        const ProgressFunction& progress, const MessageFunction& message, RunJournal* journal, const WorkingMemory& memory, Ranks& ranks,
                        const ComputeDevice& where) try {
  const bool reads = needs_calibration(recipe) || recipe.tune != Tune::None || recipe.channel_scaling;
  if (reads && calibration.windows.empty()) throw Error("no calibration windows");
  require_runs_there(recipe, ranks, where);
  if (reshapes(*recipe.method)) return reshape_model(model, calibration, recipe, pool, progress, message);
  std::optional<RankJournal> kept;
  if (ranks.broadcast(static_cast<std::uint64_t>(journal != nullptr))) kept.emplace(ranks, journal, model, recipe);
  RankJournal* const all_kept = kept ? &*kept : nullptr;
  if (!recipe.channel_scaling) return Driver(model, calibration, recipe, pool, progress, message, all_kept, memory, ranks, where).run();
  double done = 0;
  ChannelScaling scaled = scale_channels(model, calibration, recipe, pool, memory, [&](double share) {
    done += share;
    if (progress) progress({"channel scales", done, 1});
  });
  CompressResult result = Driver(scaled.model, calibration, recipe, pool, progress, message, all_kept, memory, ranks, where).run();
  result.model.statistics["channel_scaling"] = std::move(scaled.record);
  return result;
} catch (const c10::OutOfMemoryError& error) {
  const std::string_view whole = error.what_without_backtrace();
  throw Error("the device ran out of memory with one window in flight: " + std::string(whole.substr(0, whole.find('\n'))) + ". Hessians of a layer are summed in up to " +
              std::to_string((most_device_sums_bytes(model.config, memory.hessians) >> 20) + 1) +
              " MiB. A smaller --nsamples needs less memory, so does a larger --group-size; --memory moves hidden states to host memory and disk, and sums fewer Hessians at once");
}

}  // namespace miq

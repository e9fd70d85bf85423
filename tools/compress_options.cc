// A choice by name is a row of (name, value): the names go into the help and the check, the value into the options.
#include "miq/tools/compress_options.h"

#include <string>
#include <utility>
#include <vector>

#include "miq/tools/machine.h"

namespace miq {
namespace {

// Binds an option whose values have names.
template <typename Value, typename Target>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Target& target, std::vector<std::pair<std::string, Value>> choices,
                        const std::string& help) {
  std::vector<std::string> names;
  for (const auto& choice : choices) names.push_back(choice.first);
  const auto set = [&target, choices = std::move(choices)](const std::string& given) {
    for (const auto& [choice, value] : choices) {
      if (choice == given) target = value;
    }
  };
  return app.add_option_function<std::string>(name, set, help)->check(CLI::IsMember(names));
}

// A number, or "auto".
CLI::Option* add_count(CLI::App& app, const std::string& name, std::optional<std::int64_t>& count, bool& automatic, const std::string& help) {
  const auto set = [&count, &automatic, name](const std::string& given) {
    std::int64_t number = 0;
    automatic = automatic || given == "auto";
    if (given == "auto") return;
    if (!CLI::detail::lexical_cast(given, number)) throw CLI::ValidationError(name, "'" + given + "' is neither a number nor auto");
    count = number;
  };
  return app.add_option_function<std::string>(name, set, help)->type_name("INT|auto");
}

std::string method_help() {
  std::string text = "how to compress:";
  for (const Method& method : methods()) text += "\n" + std::string(method.name) + ": " + std::string(method.help);
  return text;
}

void declare_zeros(CLI::App& app, CompressOptions& method) {
  app.add_option("--sparsity", method.sparsity,
                 "share of the weights that become zero, such as 0.5; slicegpt: share of the stream's width that is cut away; structured: of the "
                 "layers' weights");
  app.add_option("--prune-n,--prunen", method.prune_n, "with --prune-m: n zeros in every m consecutive input channels");
  app.add_option("--prune-m,--prunem", method.prune_m, "see --prune-n");
  add_choice<SparsityAllocation>(app, "--sparsity-allocation", method.sparsity_allocation,
                                 {{"even", SparsityAllocation::Even}, {"global", SparsityAllocation::Global}},
                                 "mi, mixed, structured: global (default) spreads what goes over the model, even does not");
}

void declare_bits(CLI::App& app, CompressOptions& method) {
  app.add_option("--wbits", method.wbits, "bits of a weight: 2, 3, 4, 6 or 8; the average where a method mixes them");
  app.add_option("--target-avg-bits", method.target_avg_bits, "code bits of a kept weight on average, never above");
  app.add_option("--target-bpw", method.target_bpw,
                 "mi, mixed: effective bits of a weight on average, never above: codes, scales, zero points, masks and groups");
  add_choice<Allocator>(app, "--allocator", method.allocator,
                        {{"global", Allocator::Global},
                         {"per-layer", Allocator::PerLayer},
                         {"redundancy", Allocator::Redundancy},
                         {"quantile", Allocator::Quantile},
                         {"budget", Allocator::Budget}},
                        "who gets how many bits: global (mi, mixed): by predicted loss over the whole model; per-layer (mi, mixed): the same "
                        "budget for every layer; "
                        "redundancy (mi, mixed): groups that share much information get less; quantile, budget (enhanced, mi, mixed): "
                        "by rank, or by a line through the scores");
  app.add_option("--importance-weights", method.importance_weights,
                 "enhanced: five numbers, of mean size, energy, spikiness, weights and cost of removal of a channel; equal by default")
      ->delimiter(',')
      ->expected(5);
  add_choice<BitMethod>(app, "--bit-method", method.bit_method, {{"budget", BitMethod::Budget}, {"quantile", BitMethod::Quantile}},
                        "enhanced: budget (default), or quantile: equal fifths, shifted where there is a target");
  app.add_option("--layer-bits", method.layer_bits,
                 "mi, mixed: code bits of layers on average, such as 0-1=4,29=6; the other layers get what is left of the budget")
      ->delimiter(',');
  app.add_option("--bits-of", method.bits_of, "mi, mixed: the same for kinds of matrices, such as down_proj=4")->delimiter(',');
  app.add_option("--levels", method.levels, "widths that enhanced, mi and mixed choose from: 2,3,4,6,8")->delimiter(',');
}

void declare_groups(CLI::App& app, MethodFlags& flags) {
  CompressOptions& method = flags.compress;
  add_choice<Grouping>(app, "--grouping", method.grouping,
                       {{"contiguous", Grouping::Contiguous},
                        {"sensitivity", Grouping::Sensitivity},
                        {"mi", Grouping::MutualInformation},
                        {"mi-sensitivity", Grouping::MutualInformationEqual},
                        {"mi-equal", Grouping::MutualInformationEqual},
                        {"random", Grouping::Random}},
                       "mi, mixed: which input channels share a scale and a width");
  add_choice<MiEstimator>(app, "--mi-estimator", method.mi_estimator,
                          {{"gaussian", MiEstimator::Gaussian}, {"binned", MiEstimator::Binned}},
                          "mutual information from the covariance (gaussian, the default) or from 8 bins a channel (binned, slower)");
  add_choice<Clustering>(app, "--clustering", method.clustering,
                         {{"spectral", Clustering::Spectral}, {"hierarchical", Clustering::Hierarchical}},
                         "groupings by mutual information: spectral (default) or hierarchical");
  app.add_option("--use-mi-grouping", flags.use_mi_grouping, "mi: 1 (default), or 0: contiguous groups")->check(CLI::Range(0, 1));
  add_count(app, "--group-size", method.group_size, method.auto_groups,
            "input channels in a group; mi, mixed: 32, or 64 with --scale-bits 16, with zeros twice as many; others: a whole row. "
            "auto (mi, mixed, with --target-bpw): 32, 64 or 128, whichever predicts the least loss");
  add_count(app, "--n-groups", method.n_groups, method.auto_groups, "groups in an input, instead of --group-size; auto: as --group-size auto");
  app.add_option("--scale-bits", method.scale_bits, "bits of a scale: 16, or 4 to 8: codes under one exponent for each row; mi, mixed: 6, others: 16");
}

void declare_solver(CLI::App& app, MethodFlags& flags) {
  CompressOptions& method = flags.compress;
  add_choice<bool>(app, "--clip", method.clip, {{"search", true}, {"none", false}},
                   "how a scale is found: search tries 1, 0.95, ... 0.35 of the range (default for mi and mixed), none takes all of it");
  app.add_flag("--act-order", method.act_order, "sparsegpt, gptq, enhanced: solve the channels by falling energy; groups are runs of that order");
  CLI::Option* staged = app.add_flag_callback("--true-sequential", [&method] { method.true_sequential = true; },
                                              "compress a layer's linears one after another, each calibrated on what those in front of it became; "
                                              "one visit to a layer instead of two. Default for mi and mixed");
  app.add_flag_callback("--no-true-sequential", [&method] { method.true_sequential = false; }, "calibrate all linears of a layer on its dense self")
      ->excludes(staged);
  app.add_flag("--static-groups", method.static_groups,
               "sparsegpt, gptq: groups are runs of the stored channels, their scales found before solving");
  add_choice<DeadColumns>(app, "--dead-columns", method.dead_columns, {{"keep", DeadColumns::Keep}, {"zero", DeadColumns::Zero}},
                          "channels that were always zero in calibration: keep (default) rounds their weights, zero removes them");
  app.add_option("--damping,--percdamp", method.damping, "added to the Hessian's diagonal, as a share of its mean")->capture_default_str();
  app.add_option("--refine", method.refine,
                 "passes of better rounding after the sweep, by the layer's error; default 2 with mi and mixed, else 0; not for rtn, wanda, magnitude");
  add_choice<Tune>(app, "--tune", method.tune, {{"none", Tune::None}, {"norms", Tune::Norms}, {"rows", Tune::Rows}, {"scales", Tune::Scales}},
                   "after the last layer, at no cost in bits, against the dense model's predictions: norms (gains of all norms), rows (and a factor "
                   "for the scales of each row), scales (and every scale), none (default)");
  app.add_option("--tune-epochs", method.tune_epochs, "passes over the calibration windows for --tune: 2")->check(CLI::PositiveNumber);
  app.add_flag("--channel-scaling{search}", flags.channel_scaling,
               "scale the channels that linears read before quantizing, by the norms and matrices in front of them (as AWQ does); =ALPHA "
               "from 0 to 1, or searched for every input");
  app.add_option("--dtype", flags.dtype, "of the forward pass: float32, bfloat16, or auto: bfloat16 where the processor has it")
      ->check(CLI::IsMember({"float32", "bfloat16", "auto"}))
      ->capture_default_str();
}

void declare_reshaping(CLI::App& app, CompressOptions& method) {
  app.add_option("--round-interval", method.round_interval, "slicegpt: the narrower width is a multiple of it; 8");
  add_choice<RemovedParts>(app, "--remove", method.removed_parts, {{"channels", RemovedParts::Channels}, {"layers", RemovedParts::Layers}},
                           "structured: channels (default): heads and MLP channels; layers: whole decoder layers");
  app.add_option("--protect-layers", method.protected_layers,
                 "structured: two numbers, how many of the first and of the last layers stay whole; by default an eighth and a sixteenth")
      ->delimiter(',')
      ->expected(2);
  add_choice<RemovalScore>(app, "--removal-score", method.removal_score,
                           {{"fisher", RemovalScore::Fisher}, {"taylor", RemovalScore::Taylor}},
                           "structured: what a head or channel is worth: fisher (default), by what its output does to the loss; taylor, by "
                           "its weights' gradients, as LLM-Pruner");
  add_choice<bool>(app, "--compensate", method.compensate, {{"on", true}, {"off", false}},
                   "structured: fit what is left of an output matrix to what it wrote before (default on)");
}

}  // namespace

void declare_method_options(CLI::App& app, MethodFlags& flags, bool with_method) {
  if (with_method) app.add_option("--method", flags.compress.method, method_help())->capture_default_str();
  declare_zeros(app, flags.compress);
  declare_bits(app, flags.compress);
  declare_groups(app, flags);
  declare_reshaping(app, flags.compress);
  declare_solver(app, flags);
}

CompressOptions method_options(const MethodFlags& flags, std::uint64_t seed) {
  CompressOptions result = flags.compress;
  result.seed = seed;
  result.channel_scaling = !flags.channel_scaling.empty();
  if (result.channel_scaling && flags.channel_scaling != "search" && flags.channel_scaling != "true") {
    double alpha = 0;
    if (!CLI::detail::lexical_cast(flags.channel_scaling, alpha)) throw UsageError("--channel-scaling=" + flags.channel_scaling + " is no number; leave it out to search");
    result.scaling_alpha = alpha;
  }
  const bool plain = flags.dtype == "float32" || (flags.dtype == "auto" && !processor_has_bfloat16());
  result.compute = plain ? ComputeType::Float32 : ComputeType::BFloat16;
  if (flags.use_mi_grouping) {
    if (result.method != "mi") throw UsageError("--use_mi_grouping belongs to method mi");
    // 1 is what the method does anyway, by whichever of its two groupings was asked for.
    const bool information = *flags.use_mi_grouping != 0;
    if (result.grouping && (information ? !needs_mutual_information(*result.grouping) : *result.grouping != Grouping::Contiguous))
      throw UsageError("--use_mi_grouping and --grouping contradict each other; give one of them");
    if (!information) result.grouping = Grouping::Contiguous;
  }
  return result;
}

}  // namespace miq

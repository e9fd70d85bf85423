// Protocols as rows of one table; sources: sparsegpt llama.py::llama_eval, TransformerCompression
// gpu_utils.py::evaluate_ppl, llama.cpp tools/perplexity/perplexity.cpp::perplexity, exllamav3
// eval/ppl.py::get_test_tokens.
#include "miq/evaluate/protocol.h"

#include <algorithm>
#include <cmath>

#include "miq/base/error.h"

namespace miq {
namespace {

constexpr std::int64_t kDefaultSeqlen = 2048;

constexpr Protocol kProtocols[] = {
    {.name = "gptq",
     .summary = "windows in order, mean of window means (SparseGPT, GPTQ, Wanda)",
     .join = RowJoin::Gptq,
     .seqlen = 0,
     .second_half = false,
     .overwrite_bos = false,
     .keep_short_window = false,
     .ignore_padding = false,
     .mean_over_tokens = false},
    {.name = "slicegpt",
     .summary = "as gptq, rows joined with a blank line, padding targets ignored",
     .join = RowJoin::BlankLine,
     .seqlen = 0,
     .second_half = false,
     .overwrite_bos = false,
     .keep_short_window = false,
     .ignore_padding = true,
     .mean_over_tokens = false},
    {.name = "llama.cpp",
     .summary = "llama-perplexity: second half of windows of 512, mean over tokens",
     .join = RowJoin::WholeFile,
     .seqlen = 512,
     .second_half = true,
     .overwrite_bos = true,
     .keep_short_window = false,
     .ignore_padding = false,
     .mean_over_tokens = true},
    {.name = "exllamav3",
     .summary = "its eval/ppl.py: 100 windows of 2048, no special token in front, mean over tokens",
     .join = RowJoin::Gptq,
     .seqlen = 2048,
     .second_half = false,
     .overwrite_bos = false,
     .keep_short_window = false,
     .ignore_padding = false,
     .mean_over_tokens = true,
     .special_tokens = false,
     .token_behind = true,
     .most_windows = 100},
    {.name = "blocks-128",
     .summary = "the earlier scripts: windows of 128, the last short one too",
     .join = RowJoin::SkippingBlank,
     .seqlen = 128,
     .second_half = false,
     .overwrite_bos = false,
     .keep_short_window = true,
     .ignore_padding = false,
     .mean_over_tokens = false},
};

// The id that the tokenizer puts in front of a text, if it does.
std::optional<std::int32_t> leading_special(const Tokenizer& tokenizer) {
  const std::vector<std::int32_t> with = tokenizer.encode("a", true), without = tokenizer.encode("a", false);
  if (with.size() > without.size() && !with.empty() && (without.empty() || with.front() != without.front())) return with.front();
  return std::nullopt;
}

// The target that the original leaves out: its config's pad_token_id. Its Llama adapter sets that to the end-of-text token; OPT's configs
// name one of their own (1 where they are silent).
std::optional<std::int32_t> padding_target(const Model& model) {
  const Config& config = model.config;
  if (config.architecture == "opt") {
    constexpr std::int32_t kOptPadding = 1;
    const auto file = model.files.find("config.json");
    const Json stated = file == model.files.end() ? Json() : Json::parse(file->second.text(), nullptr, false);
    if (!stated.is_object() || !stated.contains("pad_token_id")) return kOptPadding;
    const Json& id = stated.at("pad_token_id");
    // Python takes 0 for none.
    return id.is_number_integer() && id > 0 && id < config.vocabulary ? std::optional(id.get<std::int32_t>()) : std::nullopt;
  }
  if (config.architecture != "llama" || !config.eos_id) {
    throw Error(model.name + ": protocol slicegpt needs a Llama model with an end-of-text id, or OPT; this is '" + config.architecture +
                "'. Use --protocol gptq");
  }
  return static_cast<std::int32_t>(*config.eos_id);
}

double square(double x) { return x * x; }

}  // namespace

std::span<const Protocol> protocols() { return kProtocols; }

const Protocol& protocol(std::string_view name) {
  std::string known;
  for (const Protocol& row : kProtocols) {
    if (row.name == name) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  throw UsageError("unknown protocol '" + std::string(name) + "'. Known: " + known);
}

std::int64_t window_length(const Protocol& protocol, const Config& config, std::int64_t requested) {
  const std::int64_t longest = config.max_positions > 0 ? config.max_positions : kDefaultSeqlen;
  if (requested == 0) return std::min(longest, protocol.seqlen > 0 ? protocol.seqlen : kDefaultSeqlen);
  const std::int64_t least = protocol.second_half ? 4 : 2;
  if (requested < least || requested > longest) {
    throw UsageError("windows of " + std::to_string(requested) + " tokens are outside " + std::to_string(least) + " … " +
                     std::to_string(longest) + ", the model's maximum. Choose another --seqlen");
  }
  return requested;
}

WindowPlan plan_windows(const Protocol& protocol, const Model& model, const Text& text, std::int64_t seqlen, std::int64_t limit) {
  if (!model.tokenizer) {
    throw Error(model.name +
                ": no tokenizer, so no perplexity. Put tokenizer.json or tokenizer.model beside the weights and convert again");
  }
  WindowPlan plan;
  plan.seqlen = seqlen;
  plan.tokens = model.tokenizer->encode(text.content, protocol.special_tokens);
  plan.text_tokens = static_cast<std::int64_t>(plan.tokens.size());
  const auto length = static_cast<std::size_t>(seqlen);
  const std::size_t needed = protocol.second_half ? 2 * length : protocol.keep_short_window ? 2 : length + (protocol.token_behind ? 1 : 0);
  if (plan.tokens.size() < needed) {
    throw Error(text.path + ": " + std::to_string(plan.tokens.size()) + " tokens, but protocol " + std::string(protocol.name) +
                " with windows of " + std::to_string(seqlen) + " needs " + std::to_string(needed) +
                ". Use a longer text or a smaller --seqlen");
  }
  std::size_t most = plan.tokens.size();
  if (limit == 0) limit = protocol.most_windows;
  if (limit > 0) most = std::min(most, static_cast<std::size_t>(limit));
  if (text.window_limit > 0) most = std::min(most, static_cast<std::size_t>(text.window_limit));
  const auto first = protocol.second_half ? seqlen / 2 : 0;
  for (std::size_t begin = 0; begin + 1 < plan.tokens.size() && plan.windows.size() < most; begin += length) {
    const std::size_t here = std::min(length, plan.tokens.size() - begin);
    if (here < length && !protocol.keep_short_window) break;
    if (protocol.token_behind && begin + here == plan.tokens.size()) break;
    plan.windows.push_back({begin, here, first});
  }
  if (protocol.overwrite_bos) {
    if (const auto bos = leading_special(*model.tokenizer)) {
      for (const Window& window : plan.windows) plan.tokens[window.begin] = *bos;
    }
  }
  if (protocol.ignore_padding) plan.ignored_target = padding_target(model);
  return plan;
}

Summary summarise(const Protocol& protocol, const WindowPlan& plan, const std::vector<std::vector<float>>& losses) {
  Summary summary;
  double sum = 0, sum_of_squares = 0;  // over tokens
  for (std::size_t w = 0; w < plan.windows.size(); ++w) {
    const Window& window = plan.windows[w];
    const auto ids = plan.ids(window);
    double window_sum = 0;
    std::int64_t counted = 0;
    for (std::size_t i = 0; i < losses[w].size(); ++i) {
      const std::int32_t target = ids[static_cast<std::size_t>(window.first) + i + 1];
      if (plan.ignored_target && target == *plan.ignored_target) continue;
      window_sum += losses[w][i];
      sum_of_squares += square(losses[w][i]);
      ++counted;
    }
    sum += window_sum;
    summary.scored += counted;
    summary.window_nll.push_back(window_sum / static_cast<double>(counted));
  }
  const auto& means = summary.window_nll;
  double error = 0;  // of mean_nll
  if (protocol.mean_over_tokens) {
    const auto count = static_cast<double>(summary.scored);
    summary.mean_nll = sum / count;
    const double variance = sum_of_squares / count - square(summary.mean_nll);
    if (summary.scored > 1 && variance > 0) error = std::sqrt(variance / (count - 1));
  } else {
    const auto count = static_cast<double>(means.size());
    double total = 0, spread = 0;
    for (double mean : means) total += mean;
    summary.mean_nll = total / count;
    for (double mean : means) spread += square(mean - summary.mean_nll);
    if (means.size() > 1) error = std::sqrt(spread / (count - 1) / count);
  }
  summary.perplexity = std::exp(summary.mean_nll);
  summary.standard_error = summary.perplexity * error;
  return summary;
}

}  // namespace miq

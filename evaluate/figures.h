// What the metrics of the forward pass found. Apart from how they are measured, so that reports need no LibTorch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "miq/evaluate/protocol.h"

namespace miq {

struct Perplexity {
  std::string text;            // the dataset's name
  std::string path;
  std::string protocol;
  Summary summary;
  std::int64_t text_tokens = 0, tokens = 0;  // of the whole text; of the windows
  std::int64_t windows = 0, seqlen = 0;
  std::string text_digest, source_digest;
  bool calibrated_on = false;  // this text also calibrated the model
  std::string failure;         // why there is no value; empty when there is one

  bool failed() const { return !failure.empty(); }
};

// Of the layer-by-layer pass, from embedding to losses, decoding of layers included.
struct Throughput {
  double tokens_per_second = 0;
  double seconds = 0;
  std::int64_t tokens = 0, seqlen = 0;
  bool synthetic = false;  // no text was given: arbitrary token ids
};

// Generation by a model whose weights stay in memory (generation.h).
struct GenerationRun {
  std::int64_t batch = 1;
  double prompt_tokens_per_second = 0;  // of all sequences' prompts, one after another
  double tokens_per_second = 0;         // new tokens of all sequences, prompts not counted
  double ms_per_token = 0;              // one step: a new token for every sequence
};

struct GenerationSpeed {
  std::int64_t prompt = 0, new_tokens = 0;  // of each sequence
  bool shortened = false;        // the model's maximum length is below kPrompt + kNewTokens
  double load_seconds = 0;       // from opening the file to the first token behind a prompt of one
  std::uint64_t weight_bytes = 0;  // of all weights as they lie in memory; mapped ones included
  std::uint64_t cache_bytes = 0;   // of one sequence's keys and values
  std::vector<GenerationRun> runs;

  static constexpr std::int64_t kPrompt = 512, kNewTokens = 128, kShortest = 4;
  static constexpr std::int64_t kBatches[] = {1, 4};
};

// Divergence from the reference on one text (divergence.h): KL in nats over the scored tokens.
struct Divergence {
  std::string text, reference;  // names
  std::string reference_digest;  // weights_digest, where it is known
  std::int64_t tokens = 0;
  double mean = 0, standard_error = 0;                                 // of KL, over tokens
  double median = 0, percentile_90 = 0, percentile_99 = 0, maximum = 0;  // between neighbours: linear
  double same_top = 0, same_top_error = 0;                             // share of tokens
  double loss_correlation = 0;                                         // Pearson's, of the tokens' losses; NaN where one does not vary
  double log_ratio = 0, log_ratio_error = 0;                           // mean over tokens of loss - reference's: ln(PPL / PPL_ref)
  std::string failure;  // why there is no value; empty when there is one
  bool comparable = true;  // false: the failure says why this model and the reference cannot be compared on this text

  bool failed() const { return !failure.empty(); }
};

// Zero-shot accuracy of one task (zeroshot.h), by its rules under this name.
inline constexpr const char* kZeroShotProtocol = "lm-evaluation-harness 0.4";

struct Share {
  double value = 0, standard_error = 0;  // the error is not a number where there is one item
};

struct ZeroShotResult {
  std::string task, path, digest;
  std::int64_t items = 0, choices = 0;
  bool normalised = false;          // whether accuracy_norm means something
  Share accuracy, accuracy_norm;
  std::vector<std::vector<double>> item_scores;  // [item][choice], where asked for
  std::string failure;              // why there is no value; empty when there is one

  bool failed() const { return !failure.empty(); }
};

// Mean over the tasks, each counting the same; `normalised`: of acc_norm, and of acc where a task has no other. No value when a task
// failed or there is none.
std::optional<double> mean_accuracy(const std::vector<ZeroShotResult>& results, bool normalised);

}  // namespace miq

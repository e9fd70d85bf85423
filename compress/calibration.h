// Calibration windows: runs of token ids of one length, taken from a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "miq/formats/json.h"
#include "miq/model/config.h"
#include "miq/model/tokenizer.h"

namespace miq {

// Whole: the text is tokenised once, with whatever the tokenizer itself puts in front (BOS).
// Lines: every line is a document, tokenised alone and without BOS (C4's pages, one a line).
enum class Documents { Whole, Lines };
// InOrder: the first windows of the text; of lines, the first `seqlen` tokens of the first lines that have
// as many. Random: as SparseGPT's scripts draw them with random.seed(seed): a start anywhere in the
// text; of lines, a line, drawn again until it is longer than a window, then a start in it.
enum class Sampling { Random, InOrder };

struct CalibrationOptions {
  Documents documents = Documents::Whole;
  Sampling sampling = Sampling::Random;
  std::int64_t windows = 128;
  std::int64_t seqlen = 0;  // 0: the smaller of the model's maximum and 2048
  std::uint64_t seed = 0;
};

struct Calibration {
  std::vector<std::vector<std::int32_t>> windows;  // all of one length
  // What goes into Model::calibration: how the windows were made, and digests of text and token ids.
  Json description;
};

// Throws UsageError on options that make no sense, Error when the text has not enough tokens: in order, it
// takes what is there, at least one window.
Calibration sample_windows(std::string_view text, const std::string& text_name, const Tokenizer& tokenizer, const Config& config,
                           const CalibrationOptions& options);

}  // namespace miq

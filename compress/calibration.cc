// Text -> windows. Lines are tokenised only when they are looked at, so a large text of pages costs no
// more than the windows drawn from it.
#include "miq/compress/calibration.h"

#include <algorithm>
#include <map>

#include "miq/base/error.h"
#include "miq/compress/random.h"
#include "miq/formats/digest.h"

namespace miq {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

Error too_short(const std::string& name, const std::string& found, std::int64_t seqlen) {
  return Error(name + ": " + found + ", but a calibration window has " + std::to_string(seqlen) +
               " tokens; take a longer text or a smaller --seqlen");
}

std::vector<Ids> from_whole(std::string_view text, const std::string& name, const Tokenizer& tokenizer, const CalibrationOptions& options,
                            std::int64_t seqlen) {
  const Ids ids = tokenizer.encode(text);
  const auto size = static_cast<std::int64_t>(ids.size());
  // Random starts lie in [0, size - seqlen - 1], as in the original scripts.
  const std::int64_t least = options.sampling == Sampling::Random ? seqlen + 1 : seqlen;
  if (size < least) throw too_short(name, "the text has " + std::to_string(size) + " tokens", seqlen);
  std::vector<Ids> windows;
  PythonRandom random(options.seed);
  for (std::int64_t w = 0; w < options.windows; ++w) {
    const std::int64_t start = options.sampling == Sampling::Random ? random.below(size - seqlen) : w * seqlen;
    if (start + seqlen > size) break;
    windows.emplace_back(ids.begin() + start, ids.begin() + start + seqlen);
  }
  return windows;
}

std::vector<Ids> from_lines(std::string_view text, const std::string& name, const Tokenizer& tokenizer, const CalibrationOptions& options,
                            std::int64_t seqlen) {
  const std::vector<std::string_view> lines = split_lines(text);
  std::vector<Ids> windows;
  if (options.sampling == Sampling::InOrder) {
    for (std::string_view line : lines) {
      if (static_cast<std::int64_t>(windows.size()) == options.windows) break;
      Ids ids = tokenizer.encode(line, false);
      if (static_cast<std::int64_t>(ids.size()) < seqlen) continue;
      ids.resize(static_cast<std::size_t>(seqlen));
      windows.push_back(std::move(ids));
    }
  } else if (!lines.empty()) {
    PythonRandom random(options.seed);
    std::map<std::int64_t, Ids> seen;  // by line number; empty: too short
    while (static_cast<std::int64_t>(windows.size()) < options.windows) {
      const std::int64_t number = random.below(static_cast<std::int64_t>(lines.size()));
      auto [entry, fresh] = seen.try_emplace(number);
      if (fresh) {
        Ids ids = tokenizer.encode(lines[static_cast<std::size_t>(number)], false);
        if (static_cast<std::int64_t>(ids.size()) > seqlen) entry->second = std::move(ids);
      }
      if (entry->second.empty()) {
        // No line is long enough once every one was seen and none fitted.
        const bool none = seen.size() == lines.size() && std::all_of(seen.begin(), seen.end(), [](const auto& s) { return s.second.empty(); });
        if (none) break;
        continue;
      }
      const std::int64_t start = random.below(static_cast<std::int64_t>(entry->second.size()) - seqlen);
      windows.emplace_back(entry->second.begin() + start, entry->second.begin() + start + seqlen);
    }
  }
  if (windows.empty()) throw too_short(name, "no line is long enough", seqlen);
  return windows;
}

std::string windows_digest(const std::vector<Ids>& windows) {
  Digest digest;
  for (const Ids& window : windows) {
    digest.add(Bytes(reinterpret_cast<const std::uint8_t*>(window.data()), window.size() * sizeof(std::int32_t)));
  }
  return digest.hex();
}

}  // namespace

Calibration sample_windows(std::string_view text, const std::string& text_name, const Tokenizer& tokenizer, const Config& config,
                           const CalibrationOptions& options) {
  if (options.windows < 1) throw UsageError("the number of calibration windows must be at least 1 (--nsamples)");
  if (options.seqlen < 0 || options.seqlen == 1) throw UsageError("a calibration window needs at least 2 tokens (--seqlen)");
  const std::int64_t longest = config.max_positions > 0 ? config.max_positions : 2048;
  const std::int64_t seqlen = options.seqlen ? options.seqlen : std::min<std::int64_t>(longest, 2048);
  if (seqlen > longest) {
    throw UsageError("--seqlen " + std::to_string(seqlen) + " is more than the model's " + std::to_string(longest) + " positions");
  }
  Calibration calibration;
  const bool lines = options.documents == Documents::Lines;
  calibration.windows = (lines ? from_lines : from_whole)(text, text_name, tokenizer, options, seqlen);
  calibration.description = {
      {"text", digest_of(Bytes(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()))},
      {"text_name", text_name},
      {"tokens", windows_digest(calibration.windows)},
      {"windows", calibration.windows.size()},
      {"seqlen", seqlen},
      {"documents", lines ? "lines" : "whole"},
      {"sampling", options.sampling == Sampling::Random ? "random" : "in-order"},
  };
  if (options.sampling == Sampling::Random) calibration.description["seed"] = options.seed;
  return calibration;
}

}  // namespace miq

// What a forecast says, and whether it fits under a limit: the hidden states and weights go to the disk first, then a layer is passed
// several times for fewer Hessians each; below what one Hessian and its factor take there is no way.
#include "miq/compress/forecast.h"

#include <algorithm>
#include <utility>

#include "miq/base/error.h"
#include "miq/compress/solve.h"
#include "miq/compress/text.h"

namespace miq {
namespace {

std::string size_text(std::uint64_t size) {
  return size < 10'000'000 ? format("%.3f MB", static_cast<double>(size) / 1e6) : size < 10'000'000'000 ? format("%.1f MB", static_cast<double>(size) / 1e6) : format("%.2f GB", static_cast<double>(size) / 1e9);
}

std::string time_text(double seconds) {
  if (seconds < 9.95) return format("%.1f s", seconds);
  if (seconds < 100) return format("%.0f s", seconds);
  return seconds < 5400 ? format("%.0f min", seconds / 60) : format("%.1f h", seconds / 3600);
}

}  // namespace

MemoryFit fit_memory(const Forecast& forecast, std::uint64_t cap) {
  const auto& memory = forecast.memory;
  MemoryFit fit;
  fit.peak = memory.peak();
  if (fit.peak <= cap) return fit;
  fit.disk = true;
  fit.disk_bytes = memory.on_disk();
  fit.peak = memory.held(memory.hessians);
  if (fit.peak <= cap) return fit;
  const std::uint64_t needed = memory.held(memory.largest_hessian);
  if (needed > cap) {
    const char* phase = memory.tuning > memory.factor + memory.inputs + memory.largest_hessian ? "what tuning keeps" : "one Hessian and its factor";
    throw UsageError("--memory " + size_text(cap) + " is too little: " + size_text(needed) + " are needed for one layer (" + size_text(memory.layer) +
                     "), " + phase + ", the embedding and what the threads work with, even with all else on the disk");
  }
  if (memory.solving() + memory.hessians > cap) fit.hessians = cap - memory.solving();
  fit.peak = cap;
  return fit;
}

std::string fit_text(const MemoryFit& fit, std::uint64_t cap, const std::string& folder) {
  std::string text = "limit     " + size_text(cap) + ": ";
  if (!fit.disk) return text + "it fits";
  text += size_text(fit.disk_bytes) + " of hidden states and weights go to " + folder + ", about " + size_text(fit.peak) + " stay in memory";
  return fit.hessians > 0 ? text + "; the windows pass through a layer several times, for " + size_text(fit.hessians) + " of Hessians each" : text;
}

std::string forecast_text(const Forecast& forecast, const Calibration& calibration, const Recipe& recipe) {
  const auto& memory = forecast.memory;
  const auto& output = forecast.output;
  std::string text = "recipe    " + recipe.to_json().dump();
  text += format("\nmodel     %.1f M weights, %.1f M of them in the matrices of %lld layers to compress", static_cast<double>(forecast.weights) / 1e6,
                 static_cast<double>(forecast.compressed_weights) / 1e6, static_cast<long long>(forecast.layers));
  if (needs_calibration(recipe)) {
    text += format("\nwindows   %zu of %zu tokens", calibration.windows.size(), calibration.windows.front().size());
  }
  text += "\nmemory    about " + size_text(memory.peak()) + " at most";
  const std::pair<const char*, std::uint64_t> uses[] = {{"hidden states", memory.activations}, {"inputs of a layer", memory.inputs}, {"Hessians and factor", memory.hessians + memory.factor},
                                                        {"a layer", memory.layer}, {"embedding and head", memory.embedding}, {"plan", memory.plan}, {"result", memory.result},
                                                        {"tuning", memory.tuning}, {"scaled weights", memory.scaled},
                                                        {"libraries and buffers", memory.process}};
  const char* separator = ": ";
  for (const auto& [name, size] : uses) {
    if (size > 0) text += std::exchange(separator, ", ") + std::string(name) + " " + size_text(size);
  }
  text += "\noutput    " + std::string(output.exact ? "" : "about ") + size_text(output.total()) + " of tensors: ";
  if (recipe.quantize) {
    text += "codes " + size_text(output.codes) + ", scales " + size_text(output.scales) + ", zero points " + size_text(output.zeros) +
            (output.masks ? ", masks " + size_text(output.masks) : "") + ", groups " + size_text(output.groups);
  } else {
    text += "values " + size_text(output.values) + (output.masks ? ", masks " + size_text(output.masks) : "");
  }
  text += ", uncompressed parts " + size_text(output.other);
  text += format("; %.3f bits a compressed weight", static_cast<double>(8 * (output.total() - output.other)) / static_cast<double>(std::max<std::uint64_t>(1, forecast.compressed_weights)));
  if (forecast.journal_bytes > 0) text += "\njournal   up to " + size_text(forecast.journal_bytes) + " on the output's disk while it runs";
  text += "\ntime      about " + time_text(forecast.seconds());
  for (std::size_t i = 0; i < forecast.parts.size(); ++i) text += (i ? ", " : ": ") + forecast.parts[i].name + " " + time_text(forecast.parts[i].seconds);
  text += " (an estimate from operations and the speed of a few small ones just now)";
  return text;
}

}  // namespace miq

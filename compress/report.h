// What a compression run measured: per matrix for the container's statistics and for a line of text, and
// for the whole model.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "miq/compress/plan.h"
#include "miq/compress/solve.h"
#include "miq/formats/json.h"
#include "miq/model/model.h"

namespace miq {

class CompressionReport {
 public:
  explicit CompressionReport(const Recipe& recipe) : recipe_(recipe) {}

  // Records a matrix as it was stored, and returns its line. `site` may be null, and must outlive the report. Information between
  // groups is written with the first matrix of each site.
  std::string add(std::int64_t layer, std::string_view rule, const std::string& name, const MatrixResult& result, const Tensor& stored,
                  const SitePlan* site, double seconds);

  std::int64_t fallbacks() const { return fallbacks_; }
  std::int64_t unseen() const { return unseen_; }  // fallbacks for want of any token
  std::int64_t quantized_channels() const { return quantized_channels_; }

  // Model::statistics: {"matrices": […], "layers": […], "kinds": […], "compressed": {…}, "model": {…}}.
  Json statistics(const Model& compressed) const;
  // The same for people, several lines.
  std::string summary(const Model& compressed) const;

 private:
  struct Bits {  // sums over matrices, in bits and weights
    std::uint64_t weights = 0, kept = 0, codes = 0, stored = 0, zeros = 0;
    std::map<int, std::uint64_t> channels;  // by width
  };
  static Json bits_json(const Bits& bits);

  const Recipe& recipe_;
  std::vector<Json> matrices_;
  std::set<const SitePlan*> with_blocks_;  // inputs whose information between groups stands with a matrix that reads them
  std::map<std::int64_t, Bits> layers_;
  std::map<std::string, Bits> kinds_;  // by short_linear_name(), an expert's number left out
  std::map<std::int64_t, std::array<double, 2>> importance_;  // least and most, by layer
  Bits all_;
  std::int64_t fallbacks_ = 0, unseen_ = 0, quantized_channels_ = 0;
};

}  // namespace miq

// What tuning moves in one tensor: relative changes theta of its values, with the state of Adam (Kingma and Ba 2015, arXiv:1412.6980).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/formats/packed_matrix.h"
#include "miq/formats/tensor.h"

namespace miq {

class TuneParameter {
 public:
  // The gains of a norm, a tensor of one dimension: gain = first gain * (1 + theta), stored as F32.
  static TuneParameter gains(std::string name, std::string rule, const Tensor& tensor);
  // The scales of a packed matrix: scale = first scale * (1 + theta), rounded to what the matrix can store. `rows`: one theta for all scales of
  // a row, else one for each (group, row).
  static TuneParameter scales(std::string name, std::string rule, const Tensor& tensor, bool rows);

  const std::string& name() const { return name_; }  // the tensor's whole name
  const std::string& rule() const { return rule_; }  // its rule's; empty for the last norm
  bool is_scales() const { return matrix_.rows > 0; }
  std::size_t size() const { return theta_.size(); }
  std::span<const float> theta() const { return theta_; }

  // d loss/d theta, given d loss/d (the decoded tensor) and the decoded tensor.
  std::vector<float> reduce(const at::Tensor& gradient, const at::Tensor& values) const;
  // The t-th step of Adam, from 1. A theta stays within one half.
  void step(std::span<const float> gradient, double rate, std::int64_t t);
  // Writes the values into `tensor`, the one that this was made from.
  void store(Tensor& tensor) const;

  void keep() { best_ = theta_; }     // as the best so far; at first that is no change
  void restore() { theta_ = best_; }

 private:
  TuneParameter(std::string name, std::string rule) : name_(std::move(name)), rule_(std::move(rule)) {}
  void init(std::size_t size);

  std::string name_, rule_;
  bool rows_ = false;
  std::vector<float> first_;  // [groups, rows], or gains
  PackedMatrix matrix_;       // scales only; without codes, zeros and mask
  std::vector<float> theta_, mean_, square_, best_;
};

}  // namespace miq

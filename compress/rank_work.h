// The linears of a layer, solved by several processes: which of them solves which, and what each needs for it.
#pragma once

#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "miq/base/ranks.h"
#include "miq/compress/hessian.h"
#include "miq/compress/matrix_record.h"
#include "miq/compress/solve.h"
#include "miq/model/architecture.h"

namespace miq {

// The work on some places of a layer. A place goes to one rank as a whole where there are at least as many places as ranks; else its
// matrices are spread, and each rank that has one factorises the Hessian itself.
class RankWork {
 public:
  RankWork(const Ranks& ranks, const Config& config, std::int64_t layer, std::span<const InputPlace> places);

  // Sums over all ranks, where they are needed: Ranks::kAll when several ranks solve matrices of the place. `sums` and `inputs` have what this
  // rank's windows showed; afterwards the statistics of the places that it solves.
  void sum_inputs(Ranks& ranks, const Recipe& recipe, std::map<InputPlace, HessianSum>& sums, std::map<InputPlace, InputStatistics>& inputs,
                  const ComputeDevice& where) const;

  // This rank's part.
  bool solves(std::string_view rule) const { return own_.contains(rule); }
  // What each rank solved, for all, place by place, in the order of the architecture's table; a matrix with the seconds that it took.
  static std::vector<std::pair<FinishedMatrix, double>> exchange(Ranks& ranks, const Model& model, std::span<const std::pair<FinishedMatrix, double>> own,
                                                                 std::int64_t layer);

 private:
  std::vector<InputPlace> places_;
  std::map<InputPlace, int> to_;               // who needs the sums: a rank, or all
  std::map<InputPlace, std::int64_t> widths_;
  std::set<std::string, std::less<>> own_;
};

}  // namespace miq

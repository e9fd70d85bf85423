// The journal of a run by any number of processes: rank 0's, with what it holds known to all. Alone it is the journal itself. A run may be resumed by
// another number of processes than the one that was stopped.
#pragma once

#include <optional>
#include <vector>

#include "miq/base/ranks.h"
#include "miq/compress/run_journal.h"

namespace miq {

// As RunJournal, called by all ranks together; states are those of a rank's own windows (rank_sums.h).
class RankJournal {
 public:
  // `journal`: in rank 0. All must outlive it.
  RankJournal(Ranks& ranks, RunJournal* journal, const Model& model, const Recipe& recipe);

  std::int64_t measured() const { return measured_; }
  LayerPlan measured(std::int64_t layer) const;
  std::int64_t walked_back() const { return walked_back_; }
  LayerCosts costs(std::int64_t layer) const;
  const std::optional<std::vector<LayerPlan>>& plan() const { return plan_; }
  std::int64_t layers() const { return layers_; }
  std::vector<FinishedMatrix> matrices(std::int64_t layer) const;
  // Hands on this rank's own windows, numbered from 0. In rank 0 one more is held at most.
  void take_states(const StateSink& take);

  void keep_measured(std::int64_t layer, const LayerPlan& places, const StateSource& states);
  void keep_costs(std::int64_t layer, const LayerCosts& costs, const StateSource& states);
  void keep_plan(const std::vector<LayerPlan>& plan);
  void keep_layer(std::int64_t layer, const std::vector<FinishedMatrix>& matrices, const StateSource& states);

 private:
  // What write() gets a writer for in rank 0, for all.
  template <typename Write>
  RecordReader from_first(const Write& write) const;

  Ranks& ranks_;
  RunJournal* journal_;
  const Model& model_;
  const Recipe& recipe_;
  std::int64_t measured_ = 0, walked_back_ = 0, layers_ = 0;
  std::optional<std::vector<LayerPlan>> plan_;
};

// A record that rank `from` has written, for all.
RecordReader share_record(Ranks& ranks, RecordWriter& written, int from = Ranks::kFirst);
// Every rank's, [rank].
std::vector<RecordReader> exchange_records(Ranks& ranks, RecordWriter& written);

}  // namespace miq

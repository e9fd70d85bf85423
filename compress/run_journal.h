// What an interrupted compression leaves behind and goes on from: every step of the plan, every finished layer as it is
// stored with what was measured, and the hidden states behind the last one. Contents of the records: formats/spec/journal.md.
//
// A resumed run takes up the very numbers of the first one, so its model is the same, byte for byte.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "miq/base/thread_pool.h"
#include "miq/compress/calibration.h"
#include "miq/compress/matrix_record.h"
#include "miq/compress/methods.h"
#include "miq/compress/plan.h"
#include "miq/compress/plan_costs.h"
#include "miq/compress/window_states.h"
#include "miq/formats/journal.h"
#include "miq/formats/record_bytes.h"
#include "miq/model/model.h"

namespace miq {

class RunJournal {
 public:
  // Which run this is: everything that its output's bytes depend on.
  static Json identity(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool);

  // Makes a journal in `folder`, or with `resume` goes on with the one that is there (if any). Throws Error where
  // there is one and `resume` is false, where it belongs to another run, or is in use; FormatError where it is damaged.
  // `model` and `recipe` must outlive it.
  RunJournal(const std::string& folder, bool resume, const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool);

  const std::string& folder() const { return journal_.folder(); }
  // For people: what was found; empty for a new journal.
  const std::string& found() const { return found_; }

  // --- what an earlier run finished
  // Of the plan, while it is not whole: layers measured by the walk forward (0 … measured() - 1), and those that the walk back has
  // left (the last walked_back() ones).
  std::int64_t measured() const { return static_cast<std::int64_t>(measured_.size()); }
  LayerPlan measured(std::int64_t layer) const;  // its places
  std::int64_t walked_back() const { return static_cast<std::int64_t>(costs_.size()); }
  LayerCosts costs(std::int64_t layer) const;
  const std::optional<std::vector<LayerPlan>>& plan() const { return plan_; }
  std::int64_t layers() const { return static_cast<std::int64_t>(layers_.size()); }  // finished ones: 0 … layers() - 1
  // In the order in which they were finished. REQUIRES: layer was finished by an earlier run.
  std::vector<FinishedMatrix> matrices(std::int64_t layer) const;
  // What the last of all these steps handed on to the next: hidden states behind a measured or finished layer, gradients in front of one walked back. No
  // windows when there is nothing to hand on.
  StateShape states() const { return states_; }
  // Reads them, once, before anything is kept. Throws FormatError where the slot is no longer what it was.
  void take_states(const StateSink& take);

  // --- what this run finishes; on the disk on return. `states` as above, of which one window at a time is held; none where no layer reads them any more.
  void keep_measured(std::int64_t layer, const LayerPlan& places, const StateSource& states);
  void keep_costs(std::int64_t layer, const LayerCosts& costs, const StateSource& states);
  void keep_plan(const std::vector<LayerPlan>& plan);
  void keep_layer(std::int64_t layer, const std::vector<FinishedMatrix>& matrices, const StateSource& states);

  // Nothing is lost with it.
  bool empty() const { return kept_ == 0; }
  // "12 of 30 layers", for people: what is kept, this run's included.
  std::string kept_text() const;
  // The output is written: deletes the journal.
  void remove() { journal_.remove(); }

 private:
  enum class Step { Measured, Costs, Plan, Layer };
  struct Slot : StateShape {
    int number = 0;
    std::string digest;
    std::uint64_t bytes() const;
  };
  struct Head;  // of a record: which step, and where its states are
  Head read_head(RecordReader& reader) const;
  void read_records(const Calibration& calibration);
  bool find_states(const Head& head, const Calibration& calibration);
  RecordReader content(const std::vector<Blob>& records, std::size_t number) const;
  RecordWriter begin(Step step, std::int64_t layer, const StateSource& states);
  Slot write_states(int number, const StateSource& states);
  void finish(RecordWriter& writer, Step step);

  const Model& model_;
  const Recipe& recipe_;
  Journal journal_;
  std::string found_;
  std::vector<Blob> measured_, costs_, layers_;  // costs_: the last layer first
  std::optional<std::vector<LayerPlan>> plan_;
  Slot states_;  // that take_states() reads
  std::int64_t kept_ = 0;  // records
  std::int64_t kept_layers_ = 0;
};

}  // namespace miq

// What rank 0 reads goes to all as the very record that the journal holds of it; states go from where they are straight into the slot, and back.
#include "miq/compress/rank_journal.h"

#include "miq/compress/matrix_record.h"
#include "miq/compress/plan_record.h"
#include "miq/compress/rank_sums.h"

namespace miq {
namespace {

std::vector<std::uint8_t> bytes_of(RecordWriter& writer) {
  std::vector<std::uint8_t> bytes;
  for (Bytes piece : writer.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

}  // namespace

RecordReader share_record(Ranks& ranks, RecordWriter& written, int from) {
  std::vector<std::uint8_t> bytes;
  if (ranks.rank() == from) bytes = bytes_of(written);
  ranks.broadcast(bytes, from);
  return {Blob(std::move(bytes)), "what process " + std::to_string(from + 1) + " sent"};
}

std::vector<RecordReader> exchange_records(Ranks& ranks, RecordWriter& written) {
  std::vector<RecordReader> readers;
  for (std::vector<std::uint8_t>& bytes : exchange(ranks, bytes_of(written))) {
    readers.emplace_back(Blob(std::move(bytes)), "what process " + std::to_string(readers.size() + 1) + " sent");
  }
  return readers;
}

RankJournal::RankJournal(Ranks& ranks, RunJournal* journal, const Model& model, const Recipe& recipe)
    : ranks_(ranks), journal_(journal), model_(model), recipe_(recipe) {
  const auto share = [&](std::int64_t value) { return static_cast<std::int64_t>(ranks_.broadcast(static_cast<std::uint64_t>(value))); };
  measured_ = share(journal_ ? journal_->measured() : 0);
  walked_back_ = share(journal_ ? journal_->walked_back() : 0);
  layers_ = share(journal_ ? journal_->layers() : 0);
  if (journal_) plan_ = journal_->plan();
  if (share(plan_.has_value()) == 0 || ranks_.alone()) return;
  RecordReader reader = from_first([&](RecordWriter& writer) { write_plan(writer, *plan_); });
  if (!plan_) plan_ = read_plan(reader, model_.config, recipe_);
}

template <typename Write>
RecordReader RankJournal::from_first(const Write& write) const {
  RecordWriter writer;
  if (journal_) write(writer);
  return share_record(ranks_, writer);
}

LayerPlan RankJournal::measured(std::int64_t layer) const {
  if (ranks_.alone()) return journal_->measured(layer);
  RecordReader reader = from_first([&](RecordWriter& writer) { write_places(writer, journal_->measured(layer)); });
  return read_places(reader, model_.config, recipe_, layer);
}

LayerCosts RankJournal::costs(std::int64_t layer) const {
  if (ranks_.alone()) return journal_->costs(layer);
  RecordReader reader = from_first([&](RecordWriter& writer) { write_costs(writer, journal_->costs(layer)); });
  return read_costs(reader, model_.config, recipe_, layer);
}

std::vector<FinishedMatrix> RankJournal::matrices(std::int64_t layer) const {
  std::vector<FinishedMatrix> found;
  if (journal_) found = journal_->matrices(layer);
  if (ranks_.alone()) return found;
  RecordReader reader = from_first([&](RecordWriter& writer) {
    writer.u64(found.size());
    for (const FinishedMatrix& matrix : found) write_matrix(writer, matrix);
  });
  if (journal_) return found;
  for (std::uint64_t count = reader.u64(); count > 0; --count) found.push_back(read_matrix(reader, model_));
  return found;
}

void RankJournal::take_states(const StateSink& take) {
  if (ranks_.alone()) return journal_->take_states(take);
  scatter_windows(ranks_, journal_ ? journal_->states() : StateShape{}, [&](const StateSink& all) { journal_->take_states(all); }, take);
}

void RankJournal::keep_measured(std::int64_t layer, const LayerPlan& places, const StateSource& states) {
  gather_windows(ranks_, states, [&](const StateSource& all) { journal_->keep_measured(layer, places, all); });
}

void RankJournal::keep_costs(std::int64_t layer, const LayerCosts& costs, const StateSource& states) {
  gather_windows(ranks_, states, [&](const StateSource& all) { journal_->keep_costs(layer, costs, all); });
}

void RankJournal::keep_plan(const std::vector<LayerPlan>& plan) {
  if (journal_) journal_->keep_plan(plan);
}

void RankJournal::keep_layer(std::int64_t layer, const std::vector<FinishedMatrix>& matrices, const StateSource& states) {
  gather_windows(ranks_, states, [&](const StateSource& all) { journal_->keep_layer(layer, matrices, all); });
}

}  // namespace miq

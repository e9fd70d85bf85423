// Costs are counted in products: a matrix [rows, n] sweeps rows n^2, and its Hessian's factor takes n^3 / 2 or so.
#include "miq/compress/rank_work.h"

#include <algorithm>

#include "miq/compress/rank_journal.h"

namespace miq {

RankWork::RankWork(const Ranks& ranks, const Config& config, std::int64_t layer, std::span<const InputPlace> places) : places_(places.begin(), places.end()) {
  std::map<InputPlace, std::vector<LayerTensor>> linears;
  for (LayerTensor& tensor : layer_tensors(config, layer)) {
    if (tensor.linear() && std::find(places.begin(), places.end(), tensor.place()) != places.end()) linears[tensor.place()].push_back(std::move(tensor));
  }
  const bool whole = linears.size() >= static_cast<std::size_t>(ranks.size());
  std::vector<double> costs;
  std::vector<std::vector<const LayerTensor*>> jobs;
  for (const auto& [place, tensors] : linears) {
    const auto n = static_cast<double>(tensors.front().shape[1]);
    widths_[place] = tensors.front().shape[1];
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i == 0 || !whole) {
        jobs.emplace_back();
        costs.push_back(n * n * n / 2);
      }
      jobs.back().push_back(&tensors[i]);
      costs.back() += static_cast<double>(tensors[i].shape[0]) * n * n;
    }
  }
  const std::vector<int> owners = spread_jobs(costs, ranks.size());
  for (std::size_t j = 0; j < jobs.size(); ++j) {
    for (const LayerTensor* tensor : jobs[j]) {
      const auto [known, added] = to_.emplace(tensor->place(), owners[j]);
      if (!added && known->second != owners[j]) known->second = Ranks::kAll;
      if (owners[j] == ranks.rank()) own_.insert(std::string(tensor->name));
    }
  }
}

void RankWork::sum_inputs(Ranks& ranks, const Recipe& recipe, std::map<InputPlace, HessianSum>& sums, std::map<InputPlace, InputStatistics>& inputs,
                          const ComputeDevice& where) const {
  std::vector<double> tokens;
  for (InputPlace place : places_) tokens.push_back(static_cast<double>(inputs[place].tokens));
  ranks.sum(tokens);
  for (std::size_t p = 0; p < places_.size(); ++p) {
    const InputPlace place = places_[p];
    InputStatistics& input = inputs[place];
    input.tokens = static_cast<std::int64_t>(tokens[p]);
    const auto found = widths_.find(place);
    if (input.tokens == 0 || found == widths_.end()) continue;
    const int to = to_.at(place);
    const bool mine = to == Ranks::kAll || to == ranks.rank();
    if (needs_hessian(recipe)) {
      HessianSum& sum = sums.try_emplace(place, found->second, where).first->second;
      sum.sum_over(ranks, to);
      if (!mine) sums.erase(place);
    }
    if (needs_channel_statistics(recipe)) sum_over(ranks, input.channels, found->second, to);
    if (!mine) input.channels = {};
  }
}

std::vector<std::pair<FinishedMatrix, double>> RankWork::exchange(Ranks& ranks, const Model& model, std::span<const std::pair<FinishedMatrix, double>> own,
                                                                  std::int64_t layer) {
  RecordWriter writer;
  writer.u64(own.size());
  for (const auto& [matrix, seconds] : own) {
    writer.f64(seconds);
    write_matrix(writer, matrix);
  }
  std::vector<std::pair<FinishedMatrix, double>> all;
  for (RecordReader& reader : exchange_records(ranks, writer)) {
    for (std::uint64_t count = reader.u64(); count > 0; --count) {
      const double seconds = reader.f64();
      all.emplace_back(read_matrix(reader, model), seconds);
    }
  }
  std::map<std::string, std::pair<InputPlace, std::size_t>, std::less<>> order;
  for (const LayerTensor& tensor : layer_tensors(model.config, layer)) order.emplace(tensor.name, std::pair(tensor.place(), order.size()));
  std::sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return order.at(a.first.rule) < order.at(b.first.rule); });
  return all;
}

}  // namespace miq

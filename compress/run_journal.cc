// Records are decoded when they are needed, straight from the mapped log. The hidden states are the largest part by far,
// so they lie in slots that are overwritten: behind an even layer in one, behind an odd one in the other. A
// slot is on the disk before the record that names it, so one of the two always goes with a whole record. They pass through memory a window at a time.
#include "miq/compress/run_journal.h"

#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <torch/version.h>

#include <algorithm>
#include <utility>

#include "miq/base/error.h"
#include "miq/base/version.h"
#include "miq/compress/matrix_record.h"
#include "miq/compress/plan_record.h"
#include "miq/formats/digest.h"
#include "miq/formats/packed_matrix.h"
#include "miq/formats/record_bytes.h"
#include "miq/model/architecture.h"

namespace miq {
namespace {

constexpr std::string_view kSteps[] = {"measured", "costs", "plan", "layer"};
constexpr const char* kRemedy = "Remove the journal's folder and begin anew";

// Sums may be rounded in another order by other instructions.
std::string instructions() {
  std::string text = at::get_cpu_capability();
  if (__builtin_cpu_supports("avx512bf16")) text += " avx512_bf16";
  return text;
}

std::string tokens_digest(const Calibration& calibration) {
  Digest digest;
  for (const auto& window : calibration.windows) digest.add(Bytes(reinterpret_cast<const std::uint8_t*>(window.data()), window.size() * sizeof(std::int32_t)));
  return digest.hex();
}

std::span<std::uint8_t> bytes_of(at::Tensor& tensor) {
  return {static_cast<std::uint8_t*>(tensor.mutable_data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

Journal open_journal(const std::string& folder, bool resume, const Json& run) {
  return resume && Journal::exists(folder) ? Journal::open(folder, run) : Journal::create(folder, run);
}

}  // namespace

Json RunJournal::identity(const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool) {
  Json run{{"program", version()},
           {"torch", TORCH_VERSION},
           {"instructions", instructions()},
           {"weights", weights_digest(model, pool)},
           {"config", model.config.to_json()},
           {"method", recipe.to_json()},
           {"seed", recipe.seed}};
  if (needs_calibration(recipe)) {
    run["calibration"] = calibration.description;
    run["windows"] = {{"count", calibration.windows.size()}, {"digest", tokens_digest(calibration)}};
  }
  return run;
}

RunJournal::RunJournal(const std::string& folder, bool resume, const Model& model, const Calibration& calibration, const Recipe& recipe, ThreadPool& pool)
    : model_(model), recipe_(recipe), journal_(open_journal(folder, resume, identity(model, calibration, recipe, pool))) {
  read_records(calibration);
}

struct RunJournal::Head {
  Step step;
  std::int64_t layer = 0;
  bool has_states = false;
  Slot slot;
};

std::uint64_t RunJournal::Slot::bytes() const {
  return static_cast<std::uint64_t>(windows) * static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(width) * sizeof(float);
}

RunJournal::Head RunJournal::read_head(RecordReader& reader) const {
  Head head{};
  const std::string kind = reader.text();
  const auto* found = std::find(std::begin(kSteps), std::end(kSteps), kind);
  if (found == std::end(kSteps)) reader.refuse("there are no records '" + kind.substr(0, 100) + "'");
  head.step = static_cast<Step>(found - std::begin(kSteps));
  const std::uint64_t layer = reader.u64();
  if (layer > 0 && layer >= model_.config.layers.size()) reader.refuse("the model has no layer " + std::to_string(layer));
  head.layer = static_cast<std::int64_t>(layer);
  head.has_states = reader.u8();
  if (!head.has_states) return head;
  const std::uint64_t slot = reader.u64();
  if (slot >= Journal::kSlots) reader.refuse("there is no slot " + std::to_string(slot));
  head.slot.number = static_cast<int>(slot);
  head.slot.digest = reader.text();
  for (std::int64_t* size : {&head.slot.windows, &head.slot.tokens, &head.slot.width}) *size = static_cast<std::int64_t>(reader.u64());
  return head;
}

void RunJournal::read_records(const Calibration& calibration) {
  const auto all = static_cast<std::int64_t>(model_.config.layers.size());
  const bool planned = recipe_.method->layout == Layout::Groups;
  std::vector<Head> heads;
  for (const Blob& record : journal_.records()) {
    RecordReader reader(record, folder() + ": record " + std::to_string(heads.size() + 1));
    const Head head = heads.emplace_back(read_head(reader));
    const bool no_plan_yet = planned && !plan_ && layers_.empty();
    bool good = false;
    switch (head.step) {
      case Step::Measured:
        good = no_plan_yet && costs_.empty() && head.layer == measured();
        measured_.push_back(record);
        break;
      case Step::Costs:
        good = no_plan_yet && measured() == all && head.layer == all - 1 - walked_back();
        costs_.push_back(record);
        break;
      case Step::Plan:
        good = no_plan_yet && (walked_back() == all || recipe_.auto_groups);
        if (good) plan_ = read_plan(reader, model_.config, recipe_);
        break;
      case Step::Layer:
        good = (plan_.has_value() || !planned) && head.layer == layers();
        layers_.push_back(record);
        break;
    }
    if (!good) reader.refuse("a record does not belong here");
  }
  bool dropped = journal_.was_torn();
  for (int broken = 1; !heads.empty() && !find_states(heads.back(), calibration); ++broken) {
    // The states may be gone with a power failure that the record outlived; those of the step before are older.
    if (broken > 1) throw FormatError(folder(), "neither of the last two records' hidden states is whole", kRemedy);
    dropped = true;
    (heads.back().step == Step::Measured ? measured_ : heads.back().step == Step::Costs ? costs_ : layers_).pop_back();
    heads.pop_back();
    journal_.truncate(heads.size());
  }
  kept_ = static_cast<std::int64_t>(heads.size());
  kept_layers_ = layers();
  if (kept_ > 0) found_ = "resuming with " + kept_text();
  if (kept_ == 0 && dropped) found_ = "resuming from the start";
  if (dropped) found_ += " (the last record was not whole)";
  if (plan_) measured_.clear(), costs_.clear();
}

std::string RunJournal::kept_text() const {
  const std::string of = " of " + std::to_string(model_.config.layers.size()) + " layers";
  if (kept_layers_ > 0) return std::to_string(kept_layers_) + of;
  const auto all = static_cast<std::int64_t>(model_.config.layers.size());
  if (kept_ > 2 * all || recipe_.auto_groups) return "the plan";
  return "measurements for the plan, " + std::to_string(kept_) + " of " + std::to_string(2 * all) + " steps";
}

bool RunJournal::find_states(const Head& head, const Calibration& calibration) {
  const auto all = static_cast<std::int64_t>(model_.config.layers.size());
  const bool needed = head.step == Step::Costs ? head.layer > 0 : head.step != Step::Plan && needs_calibration(recipe_) && head.layer + 1 < all;
  states_ = {};
  if (!needed) return true;
  const LayerConfig& layer = model_.config.layers[static_cast<std::size_t>(head.layer)];
  const bool back = head.step == Step::Costs;
  auto windows = static_cast<std::int64_t>(calibration.windows.size());
  if (back) windows = std::min(windows, kSensitivityWindows);
  if (head.step == Step::Measured) windows = plan_windows(model_.config, windows, static_cast<std::int64_t>(calibration.windows.front().size()));
  if (!head.has_states || head.slot.windows != windows || head.slot.tokens != static_cast<std::int64_t>(calibration.windows.front().size()) ||
      head.slot.width != (back ? input_width(model_.config, layer) : output_width(model_.config, layer))) {
    throw FormatError(folder() + ": layer " + std::to_string(head.layer + 1), "has hidden states of another size than the run", kRemedy);
  }
  if (!journal_.slot_is_whole(head.slot.number, head.slot.bytes(), head.slot.digest)) return false;
  states_ = head.slot;
  return true;
}

void RunJournal::take_states(const StateSink& take) {
  const Slot from = std::exchange(states_, {});
  if (from.windows == 0) return;
  at::Tensor state;
  std::int64_t window = -1;
  const bool whole = journal_.read_slot(from.number, from.bytes(), [&]() -> std::span<std::uint8_t> {
    if (window >= 0) take(window, std::move(state));
    state = at::Tensor();
    if (++window == from.windows) return {};
    state = at::empty({from.tokens, from.width}, at::kFloat);
    return bytes_of(state);
  }, from.digest);
  if (!whole) throw FormatError(folder(), "the hidden states changed while they were read", kRemedy);
}

RecordReader RunJournal::content(const std::vector<Blob>& records, std::size_t number) const {
  RecordReader reader(records.at(number), folder());
  read_head(reader);
  return reader;
}

LayerPlan RunJournal::measured(std::int64_t layer) const {
  RecordReader reader = content(measured_, static_cast<std::size_t>(layer));
  return read_places(reader, model_.config, recipe_, layer);
}

LayerCosts RunJournal::costs(std::int64_t layer) const {
  RecordReader reader = content(costs_, model_.config.layers.size() - 1 - static_cast<std::size_t>(layer));
  return read_costs(reader, model_.config, recipe_, layer);
}

std::vector<FinishedMatrix> RunJournal::matrices(std::int64_t layer) const {
  RecordReader reader = content(layers_, static_cast<std::size_t>(layer));
  std::vector<FinishedMatrix> result;
  for (std::uint64_t count = reader.count(64); count > 0; --count) result.push_back(read_matrix(reader, model_));
  std::vector<std::string> found, expected;
  for (const FinishedMatrix& matrix : result) found.push_back(matrix.name);
  for (const LayerTensor& tensor : layer_tensors(model_.config, layer)) {
    if (tensor.linear()) expected.push_back(layer_tensor_name(architecture(model_.config.architecture), layer, tensor.name));
  }
  std::sort(found.begin(), found.end());
  std::sort(expected.begin(), expected.end());
  if (found != expected) reader.refuse("layer " + std::to_string(layer + 1) + " does not have the model's matrices");
  return result;
}

RunJournal::Slot RunJournal::write_states(int number, const StateSource& states) {
  Slot slot;
  slot.number = number;
  at::Tensor state;
  slot.digest = journal_.write_slot(number, [&]() -> Bytes {
    state = at::Tensor();  // before the next one is made
    if (slot.windows == states.windows) return {};
    state = states.state(slot.windows).contiguous();
    if (state.scalar_type() != at::kFloat || state.dim() != 2 || !state.is_cpu() || state.numel() == 0) throw Error("journal: hidden states are not float32 matrices");
    if (slot.windows++ == 0) slot.tokens = state.size(0), slot.width = state.size(1);
    if (state.size(0) != slot.tokens || state.size(1) != slot.width) throw Error("journal: hidden states are not all of one shape");
    return {static_cast<const std::uint8_t*>(state.const_data_ptr()), static_cast<std::size_t>(state.nbytes())};
  });
  return slot;
}

RecordWriter RunJournal::begin(Step step, std::int64_t layer, const StateSource& states) {
  RecordWriter writer;
  writer.text(kSteps[static_cast<std::size_t>(step)]);
  writer.u64(static_cast<std::uint64_t>(layer));
  writer.u8(states.windows > 0);
  if (states.windows == 0) return writer;
  const Slot slot = write_states(static_cast<int>(layer % 2) + (step == Step::Costs ? 2 : 0), states);
  writer.u64(static_cast<std::uint64_t>(slot.number));
  writer.text(slot.digest);
  for (const std::int64_t size : {slot.windows, slot.tokens, slot.width}) writer.u64(static_cast<std::uint64_t>(size));
  return writer;
}

void RunJournal::finish(RecordWriter& writer, Step step) {
  journal_.append(writer.pieces());
  ++kept_;
  if (step == Step::Layer) ++kept_layers_;
}

void RunJournal::keep_measured(std::int64_t layer, const LayerPlan& places, const StateSource& states) {
  RecordWriter writer = begin(Step::Measured, layer, states);
  write_places(writer, places);
  finish(writer, Step::Measured);
}

void RunJournal::keep_costs(std::int64_t layer, const LayerCosts& costs, const StateSource& states) {
  RecordWriter writer = begin(Step::Costs, layer, states);
  write_costs(writer, costs);
  finish(writer, Step::Costs);
}

void RunJournal::keep_plan(const std::vector<LayerPlan>& plan) {
  RecordWriter writer = begin(Step::Plan, 0, {});
  write_plan(writer, plan);
  finish(writer, Step::Plan);
}

void RunJournal::keep_layer(std::int64_t layer, const std::vector<FinishedMatrix>& matrices, const StateSource& states) {
  RecordWriter writer = begin(Step::Layer, layer, states);
  writer.u64(matrices.size());
  for (const FinishedMatrix& matrix : matrices) write_matrix(writer, matrix);
  finish(writer, Step::Layer);
}

}  // namespace miq

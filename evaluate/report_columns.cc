// Every figure is rounded for reading here; exact values are in report.json.
#include "miq/evaluate/report_columns.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace miq {
namespace {

Cell number(double value, std::string text) { return {std::move(text), {}, value, true, false, false, {}}; }

std::string fixed(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

const Perplexity* perplexity_of(const ModelReport& model, const std::string& text) {
  const auto found = std::find_if(model.perplexity.begin(), model.perplexity.end(), [&](const Perplexity& p) { return p.text == text; });
  return found == model.perplexity.end() ? nullptr : &*found;
}

Basis perplexity_basis(const Perplexity& result, const Conditions& conditions) {
  return {{"protocol", result.protocol},
          {"text", result.text_digest},
          {"tokens in a window", std::to_string(result.seqlen)},
          {"windows", std::to_string(result.windows)},
          {"tokens of the text", std::to_string(result.text_tokens)},
          {"dtype", conditions.dtype}};
}

// Of a figure that tells how fast or how large the run was.
Basis machine_basis(const Conditions& conditions) {
  return {{"device", conditions.device},
          {"processor", conditions.device_name},
          {"threads", std::to_string(conditions.threads)},
          {"dtype", conditions.dtype}};
}

Cell timed(Cell cell, const Conditions& conditions, std::int64_t seqlen = 0) {
  cell.basis = machine_basis(conditions);
  if (seqlen > 0) cell.basis.emplace_back("tokens in a window", std::to_string(seqlen));
  return cell;
}

Cell perplexity_cell(const Perplexity* result, const Conditions& conditions) {
  if (result == nullptr) return {};
  Cell cell;
  cell.calibrated_on = result->calibrated_on;
  if (result->failed()) {
    cell.text = "failed";
    cell.failed = true;
    return cell;
  }
  cell = number(result->summary.perplexity, figure_text(result->summary.perplexity));
  cell.calibrated_on = result->calibrated_on;
  cell.basis = perplexity_basis(*result, conditions);
  if (result->summary.standard_error > 0) cell.detail = "± " + figure_text(result->summary.standard_error, 2);
  return cell;
}

// A figure of the divergence on a text, where there is one.
template <typename Function>
Cell divergence_cell(const Report& report, const ModelReport& model, const std::string& text, Function figure) {
  const auto found = std::find_if(model.divergence.begin(), model.divergence.end(), [&](const Divergence& d) { return d.text == text; });
  if (found == model.divergence.end()) return {};
  Cell cell;
  if (!found->failed()) {
    cell = figure(*found);
    if (const Perplexity* measured = perplexity_of(model, text)) cell.basis = perplexity_basis(*measured, report.conditions_of(model));
    cell.basis.emplace_back("reference", found->reference_digest.empty() ? found->reference : found->reference_digest);
    return cell;
  }
  if (found->comparable) {
    cell.text = "failed";
    cell.failed = true;
  }
  return cell;
}

std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

Basis accuracy_basis(const ZeroShotResult& result, const Conditions& conditions) {
  return {{"questions of " + result.task, result.digest}, {"number of questions", std::to_string(result.items)}, {"dtype", conditions.dtype}};
}

Cell accuracy_cell(const Report& report, const ModelReport& model, const std::string& task) {
  const auto found = std::find_if(model.zeroshot.begin(), model.zeroshot.end(), [&](const ZeroShotResult& r) { return r.task == task; });
  if (found == model.zeroshot.end()) return {};
  if (found->failed()) return {"failed", {}, 0, false, true, false, {}};
  Cell cell = number(found->accuracy.value, percent(found->accuracy.value));
  cell.basis = accuracy_basis(*found, report.conditions_of(model));
  if (std::isfinite(found->accuracy.standard_error)) cell.detail = "± " + fixed(100 * found->accuracy.standard_error, 1);
  return cell;
}

Cell mean_accuracy_cell(const Report& report, const ModelReport& model, bool normalised) {
  const auto mean = mean_accuracy(model.zeroshot, normalised);
  if (mean) {
    Cell cell = number(*mean, percent(*mean));
    cell.basis = {{"dtype", report.conditions_of(model).dtype}};
    for (const ZeroShotResult& result : model.zeroshot) cell.basis.emplace_back("questions of " + result.task, result.digest);
    return cell;
  }
  return model.zeroshot.empty() ? Cell{} : Cell{"failed", {}, 0, false, true, false, {}};
}

Cell generation_cell(const ModelReport& model, std::int64_t batch) {
  if (!model.generation) return {};
  for (const GenerationRun& run : model.generation->runs) {
    if (run.batch != batch) continue;
    Cell cell = number(run.tokens_per_second, figure_text(run.tokens_per_second, 3));
    cell.detail = figure_text(run.ms_per_token, 3) + " ms";
    return cell;
  }
  return {};
}

Cell rotation_cell(const ModelReport& model) {
  if (!model.parameters || model.parameters->total == 0) return {};
  for (const auto& [part, count] : model.parameters->by_part) {
    if (part != Part::Rotation) continue;
    const double share = static_cast<double>(count) / static_cast<double>(model.parameters->total);
    return number(share, fixed(100 * share, 1) + " %");
  }
  return {};
}

template <typename Function>
Column column(const Report& report, ColumnGroup group, std::string title, std::string explanation, Function cell) {
  Column made{.title = std::move(title), .explanation = std::move(explanation), .group = group};
  for (const ModelReport& model : report.models) made.cells.push_back(cell(model));
  return made;
}

bool any_value(const Column& column) {
  return std::any_of(column.cells.begin(), column.cells.end(), [](const Cell& cell) { return cell.has_value || cell.failed; });
}

void add_divergence_columns(const Report& report, const std::string& text, std::vector<Column>& columns) {
  columns.push_back(column(report, ColumnGroup::Divergence, "KL " + text,
                           "Mean Kullback-Leibler divergence of the next token's distribution from the reference's on " + text +
                               ", in nats; lower is closer. ± is the standard error",
                           [&](const ModelReport& m) {
                             return divergence_cell(report, m, text, [](const Divergence& d) {
                               Cell cell = number(d.mean, figure_text(d.mean, 3));
                               cell.detail = "± " + figure_text(d.standard_error, 2);
                               return cell;
                             });
                           }));
  columns.push_back(column(report, ColumnGroup::Divergence, "KL 99 % " + text, "99th percentile of that divergence over the tokens of " + text, [&](const ModelReport& m) {
    return divergence_cell(report, m, text, [](const Divergence& d) { return number(d.percentile_99, figure_text(d.percentile_99, 3)); });
  }));
  columns.back().wide_only = true;
  columns.push_back(column(report, ColumnGroup::Divergence, "same top " + text, "Share of the tokens of " + text + " where the most likely next token is the reference's",
                           [&](const ModelReport& m) {
                             return divergence_cell(report, m, text, [](const Divergence& d) { return number(d.same_top, fixed(100 * d.same_top, 1) + " %"); });
                           }));
  columns.back().wide_only = true;
}

// One column a task; the mean stands for them in narrow tables.
void add_accuracy_columns(const Report& report, std::vector<Column>& columns) {
  const std::vector<std::string> tasks = report.tasks();
  for (const std::string& task : tasks) {
    columns.push_back(column(report, ColumnGroup::Accuracy, task, "Zero-shot accuracy on " + task + "; ± is the standard error",
                             [&](const ModelReport& m) { return accuracy_cell(report, m, task); }));
    columns.back().wide_only = tasks.size() > 2;
  }
  if (tasks.size() < 2) return;
  columns.push_back(column(report, ColumnGroup::Accuracy, "accuracy", "Mean zero-shot accuracy of the " + std::to_string(tasks.size()) + " tasks, each counting the same",
                           [&](const ModelReport& m) { return mean_accuracy_cell(report, m, false); }));
  columns.push_back(column(report, ColumnGroup::Accuracy, "acc. norm.", "The same with length-normalised likelihoods where the task is measured so",
                           [&](const ModelReport& m) { return mean_accuracy_cell(report, m, true); }));
  columns.back().wide_only = true;
}

std::string conditions_text(const Conditions& conditions) {
  return "in " + conditions.dtype + " on " + conditions.device + (conditions.device_name.empty() ? "" : " (" + conditions.device_name + ")") +
         ", " + std::to_string(conditions.threads) + (conditions.threads == 1 ? " thread" : " threads") + "; miq " + conditions.version +
         ", torch " + conditions.torch_version + ".";
}

// One line for each text and way to measure it, with the models' names where not all were measured the same way.
void add_text_notes(const Report& report, std::vector<std::string>& notes) {
  for (const std::string& text : report.texts()) {
    std::vector<std::pair<std::string, std::string>> ways;  // how, and the models
    for (const ModelReport& model : report.models) {
      const Perplexity* result = perplexity_of(model, text);
      if (result == nullptr || result->failed()) continue;
      const std::string way = std::to_string(result->windows) + (result->windows == 1 ? " window of " : " windows of ") +
                              std::to_string(result->seqlen) + " tokens, protocol " + result->protocol + ".";
      const auto known = std::find_if(ways.begin(), ways.end(), [&](const auto& entry) { return entry.first == way; });
      if (known == ways.end()) {
        ways.emplace_back(way, model.name);
      } else {
        known->second += ", " + model.name;
      }
    }
    for (const auto& [way, models] : ways) notes.push_back(text + (ways.size() > 1 ? " (" + models + ")" : "") + ": " + way);
  }
}

void add_condition_notes(const Report& report, std::vector<std::string>& notes) {
  std::vector<std::pair<std::string, std::string>> ways;
  for (const ModelReport& model : report.models) {
    const std::string way = conditions_text(report.conditions_of(model));
    const auto known = std::find_if(ways.begin(), ways.end(), [&](const auto& entry) { return entry.first == way; });
    if (known == ways.end()) {
      ways.emplace_back(way, model.name);
    } else {
      known->second += ", " + model.name;
    }
  }
  for (const auto& [way, models] : ways) notes.push_back((ways.size() > 1 ? models + ": computed " : "Computed ") + way);
}

}  // namespace

std::string_view column_group_name(ColumnGroup group) {
  switch (group) {
    case ColumnGroup::Perplexity: return "Perplexity";
    case ColumnGroup::Divergence: return "Against the reference";
    case ColumnGroup::Accuracy: return "Accuracy";
    case ColumnGroup::Size: return "Size";
    case ColumnGroup::Cost: return "Cost";
    case ColumnGroup::Model: break;
  }
  return "";
}

std::vector<Column> report_columns(const Report& report) {
  std::vector<Column> columns;
  columns.push_back(column(report, ColumnGroup::Model, "model", "", [](const ModelReport& m) { return Cell{m.name, {}, 0, true, false, false, {}}; }));
  columns.push_back(column(report, ColumnGroup::Model, "method", "How the weights were compressed",
                           [](const ModelReport& m) { return Cell{m.method_name(), {}, 0, true, false, false, {}}; }));
  columns.front().text = columns.back().text = true;
  columns.back().wide_only = true;
  for (const std::string& text : report.texts()) {
    columns.push_back(column(report, ColumnGroup::Perplexity, text, "Perplexity on " + text + "; lower is better. ± is the standard error",
                             [&](const ModelReport& m) { return perplexity_cell(perplexity_of(m, text), report.conditions_of(m)); }));
  }
  for (const std::string& text : report.texts()) add_divergence_columns(report, text, columns);
  add_accuracy_columns(report, columns);
  columns.push_back(column(report, ColumnGroup::Size, "code bits", "Bits of the code of each kept weight, averaged over the linears of the decoder layers",
                           [](const ModelReport& m) { return m.size ? number(m.size->code_bits, fixed(m.size->code_bits, 2)) : Cell{}; }));
  columns.push_back(
      column(report, ColumnGroup::Size, "eff. bits", "Bits a weight of those linears takes as stored: codes, scales, zero points, masks, group indices",
             [](const ModelReport& m) { return m.size ? number(m.size->effective_bits, fixed(m.size->effective_bits, 2)) : Cell{}; }));
  columns.push_back(
      column(report, ColumnGroup::Size, "sparsity", "Share of exact zeros in those linears, those that rounding made included", [](const ModelReport& m) {
        return m.parameters ? number(m.parameters->sparsity(), fixed(100 * m.parameters->sparsity(), 1) + " %") : Cell{};
      }));
  columns.push_back(column(report, ColumnGroup::Size, "parameters", "Of the whole model, tied tensors once", [](const ModelReport& m) {
    return m.parameters
               ? number(static_cast<double>(m.parameters->total), figure_text(static_cast<double>(m.parameters->total) / 1e6) + " M")
               : Cell{};
  }));
  columns.back().wide_only = true;
  columns.push_back(column(report, ColumnGroup::Size, "file", "Bytes on disk", [](const ModelReport& m) {
    return m.size ? number(static_cast<double>(m.size->file_bytes), bytes_text(m.size->file_bytes)) : Cell{};
  }));
  columns.push_back(column(report, ColumnGroup::Cost, "tokens/s", "Tokens a second of the evaluation pass, losses included", [&](const ModelReport& m) {
    if (!m.throughput) return Cell{};
    return timed(number(m.throughput->tokens_per_second, figure_text(m.throughput->tokens_per_second, 3)), report.conditions_of(m), m.throughput->seqlen);
  }));
  for (const std::int64_t batch : GenerationSpeed::kBatches) {
    columns.push_back(column(report, ColumnGroup::Cost, "gen. tok/s" + (batch == 1 ? std::string() : " ×" + std::to_string(batch)),
                             "New tokens a second behind a prompt, " + std::to_string(batch) + (batch == 1 ? " sequence" : " sequences at once") +
                                 ", weights in memory",
                             [&](const ModelReport& m) { return timed(generation_cell(m, batch), report.conditions_of(m)); }));
    columns.back().wide_only = batch != 1;
  }
  columns.push_back(column(report, ColumnGroup::Cost, "load", "Seconds from opening the file to the first token", [&](const ModelReport& m) {
    return m.generation ? timed(number(m.generation->load_seconds, figure_text(m.generation->load_seconds, 2) + " s"), report.conditions_of(m)) : Cell{};
  }));
  columns.back().wide_only = true;
  columns.push_back(column(report, ColumnGroup::Cost, "weights in mem.", "Bytes of all weights as generation holds them, mapped files included", [](const ModelReport& m) {
    return m.generation ? number(static_cast<double>(m.generation->weight_bytes), bytes_text(m.generation->weight_bytes)) : Cell{};
  }));
  columns.back().wide_only = true;
  columns.push_back(column(report, ColumnGroup::Size, "MACs/token", "Multiplications a token costs, attention over a window included; zeros count", [](const ModelReport& m) {
    return m.macs ? number(m.macs->per_token(), figure_text(m.macs->per_token() / 1e6, 4) + " M") : Cell{};
  }));
  columns.back().wide_only = true;
  columns.push_back(column(report, ColumnGroup::Size, "rotations", "Share of a sliced model's parameters that carry its stream around the blocks", rotation_cell));
  columns.back().wide_only = true;
  columns.push_back(
      column(report, ColumnGroup::Cost, "peak mem.", "Highest resident memory while opening and evaluating, mapped files included", [&](const ModelReport& m) {
        if (!m.memory) return Cell{};
        return timed(number(static_cast<double>(m.memory->peak_bytes), bytes_text(m.memory->peak_bytes)), report.conditions_of(m));
      }));
  for (Column& made : columns) {
    if (made.title == "code bits" || made.title == "eff. bits") made.change = Change::Difference;
    if (made.title == "sparsity" || made.title.starts_with("same top ") || made.group == ColumnGroup::Accuracy) made.change = Change::Points;
  }
  std::erase_if(columns, [](const Column& c) { return !any_value(c); });
  // Whoever adds a metric need not know where its group stands.
  std::stable_sort(columns.begin(), columns.end(), [](const Column& a, const Column& b) { return a.group < b.group; });
  return columns;
}

std::vector<std::string> report_notes(const Report& report) {
  std::vector<std::string> notes;
  bool calibrated = false, synthetic = false;
  for (const ModelReport& model : report.models) {
    for (const Perplexity& result : model.perplexity) calibrated |= result.calibrated_on;
    synthetic |= model.throughput && model.throughput->synthetic;
  }
  std::vector<std::string> told;
  for (const ModelReport& model : report.models) {
    for (const Divergence& result : model.divergence) {
      if (result.failed() && !result.comparable) notes.push_back(model.name + ": no divergence on " + result.text + ": " + result.failure + ".");
      if (result.failed() || std::find(told.begin(), told.end(), result.reference) != told.end()) continue;
      told.push_back(result.reference);
      notes.push_back("KL: divergence from " + result.reference + " over the scored tokens, in nats.");
    }
  }
  if (calibrated)
    notes.push_back("* This text also calibrated the model, so the figure flatters it: compare on a text that the method has not seen.");
  if (synthetic) notes.push_back("Tokens per second were measured on arbitrary token ids, as no text could be used.");
  for (const ModelReport& model : report.models) {
    if (!model.generation || !model.generation->shortened) continue;
    notes.push_back(model.name + ": generation was measured on prompts of " + std::to_string(model.generation->prompt) + " tokens and " +
                    std::to_string(model.generation->new_tokens) + " new ones, as the model ends there.");
  }
  for (const ModelReport& model : report.models) {
    for (const std::string& failure : model.failures) notes.push_back(model.name + ": no value for " + failure + ".");
  }
  add_text_notes(report, notes);
  for (const std::string& task : report.tasks()) {
    for (const ModelReport& model : report.models) {
      const auto found = std::find_if(model.zeroshot.begin(), model.zeroshot.end(), [&](const ZeroShotResult& r) { return r.task == task; });
      if (found == model.zeroshot.end() || found->failed()) continue;
      notes.push_back(task + ": " + std::to_string(found->items) + " questions, no examples, protocol " + kZeroShotProtocol + ".");
      break;
    }
  }
  add_condition_notes(report, notes);
  return notes;
}

Table summary_table(const Report& report) { return {report_columns(report), report_notes(report), report.models.size()}; }

}  // namespace miq

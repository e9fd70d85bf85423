// What an evaluation found, as every output (JSON, Markdown, terminal, HTML) is made from it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "miq/evaluate/count.h"
#include "miq/evaluate/figures.h"
#include "miq/evaluate/macs.h"
#include "miq/evaluate/memory.h"
#include "miq/evaluate/size.h"
#include "miq/evaluate/structure.h"

namespace miq {

// What computed a figure.
struct Conditions {
  std::string version, torch_version;
  std::string device;       // "cpu"
  std::string device_name;  // the processor
  std::string dtype;        // "bfloat16"
  int threads = 0;
  int processes = 1;  // each with that many threads
};

struct ModelReport {
  std::string name, path;
  std::string digest;  // weights_digest
  std::string architecture, tokenizer;
  std::int64_t layers = 0, hidden = 0, vocabulary = 0, max_positions = 0;
  Json method = Json::object(), statistics = Json::object(), calibration = Json::object(), source = Json::object();

  // Present when their metric was asked for.
  std::optional<ParameterCount> parameters;
  std::optional<SizeFigures> size;
  std::vector<Perplexity> perplexity;
  std::vector<Divergence> divergence;  // from the reference, one a text; empty for the reference itself
  std::vector<ZeroShotResult> zeroshot;
  std::optional<Throughput> throughput;
  std::optional<GenerationSpeed> generation;
  std::optional<MacCount> macs;
  std::optional<MemoryFigures> memory;
  std::optional<StructureFigures> structure;
  std::optional<Conditions> conditions;  // where they are not the report's own: in a report put together from several
  std::vector<std::string> failures;  // metrics that gave no value, each with its reason

  std::string method_name() const;  // "dense" for a model as its makers left it; "not recorded"
};

struct Report : Conditions {
  std::string protocol;
  std::vector<ModelReport> models;

  const Conditions& conditions_of(const ModelReport& model) const { return model.conditions ? *model.conditions : *this; }

  bool failed() const;  // any model has a failure
  // Names of the texts of all models, in order of first appearance.
  std::vector<std::string> texts() const;
  // Those of the zero-shot tasks, likewise.
  std::vector<std::string> tasks() const;
};

// Schema "miq.eval/1" (docs/report-json.md). Numbers that are not finite become null.
Json report_json(const Report& report);
// Reads it back, those of earlier versions too; `name` is used in messages. Throws FormatError naming the key for what is no such
// report, or has values that make no sense.
Report report_from_json(const Json& json, const std::string& name);
Report read_report(const std::string& path);

// A table for reading: one row a model. `markdown` false: for a terminal, at most 100 columns wide where the
// names allow it.
std::string report_table(const Report& report, bool markdown);
// The Markdown file: the table, its notes, one card a model.
std::string report_markdown(const Report& report);
// A LaTeX table float (booktabs).
std::string report_latex(const Report& report);
// One self-contained page: no script, style, font or image from elsewhere.
std::string report_html(const Report& report);

// "22.88", "1,234", "0.0123": about four significant digits for people.
std::string figure_text(double value, int significant = 4);
// "269.1 MB", decimal units.
std::string bytes_text(std::uint64_t bytes);

}  // namespace miq

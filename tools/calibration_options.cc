#include "miq/tools/calibration_options.h"

#include <filesystem>

#include "miq/formats/mapped_file.h"

namespace miq {

void declare_text_options(CLI::App& app, TextFlags& flags) {
  app.add_option("--data-dir", flags.data_dir, "folder with the texts of wikitext2, ptb, c4 and others");
  app.add_option("--dataset", flags.datasets, "where a text is: NAME=PATH");
}

Text find_named_text(const TextFlags& flags, const std::string& name) {
  for (const std::string& dataset : flags.datasets) {
    if (dataset.rfind(name + "=", 0) == 0) return load_text(name, dataset.substr(name.size() + 1));
  }
  if (const auto equals = name.find('='); equals != std::string::npos) return load_text(name.substr(0, equals), name.substr(equals + 1));
  if (std::filesystem::is_regular_file(name)) return load_text(std::filesystem::path(name).stem().string(), name);
  if (flags.data_dir.empty()) {
    throw UsageError("'" + name + "' is no file, and without --data-dir or --dataset " + name + "=PATH it is not known where that text is");
  }
  return load_text(name, find_text(flags.data_dir, name));
}

void declare_calibration_options(CLI::App& app, CalibrationFlags& flags) {
  app.add_option("--documents", flags.documents, "lines: each line tokenised alone, without BOS (default for c4); whole: the text at once")
      ->check(CLI::IsMember({"lines", "whole"}));
  app.add_option("--sampling", flags.sampling, "random: as SparseGPT draws with --seed; in-order: the first windows")
      ->check(CLI::IsMember({"random", "in-order"}))
      ->capture_default_str();
  app.add_option("--nsamples", flags.windows, "calibration windows")->capture_default_str();
  app.add_option("--seqlen", flags.seqlen, "tokens of a calibration window; by default the smaller of the model's maximum and 2048")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", flags.seed, "of the sampling and the clustering")->capture_default_str();
}

Calibration read_calibration(const std::string& model_name, const Model& model, const std::string& named, const TextFlags& texts,
                             const CalibrationFlags& flags) {
  if (!model.tokenizer) {
    throw Error(model_name + ": has no tokenizer, so no text can calibrate it; convert it again with its tokenizer files beside it");
  }
  const Text text = find_named_text(texts, named);
  CalibrationOptions sampling;
  const std::string documents = flags.documents.empty() ? (text.name == "c4" ? "lines" : "whole") : flags.documents;
  sampling.documents = documents == "lines" ? Documents::Lines : Documents::Whole;
  sampling.sampling = flags.sampling == "in-order" ? Sampling::InOrder : Sampling::Random;
  sampling.windows = flags.windows;
  sampling.seqlen = flags.seqlen;
  sampling.seed = flags.seed;
  // Lines are those of the file: a dataset's preparation may have joined them.
  const Blob file = sampling.documents == Documents::Lines ? map_file(text.path) : Blob(text.content);
  Calibration calibration = sample_windows(file.text(), text.name, *model.tokenizer, model.config, sampling);
  calibration.description["text_digest"] = text.digest;
  calibration.description["source_digest"] = text.source_digest;
  return calibration;
}

}  // namespace miq

// A made-up report with everything a report can hold: six variants, two texts, mixed bits, zeros, a failed
// metric, a text that also calibrated, names that want escaping.
#pragma once

#include <cmath>

#include "miq/evaluate/report.h"

namespace miq::test {

struct Variant {
  const char* name;
  const char* method;
  double code_bits, overhead_bits, sparsity, first_perplexity, second_perplexity;
  bool mixed;
};

inline ModelReport sample_model(const Variant& variant, std::int64_t layers) {
  static constexpr std::pair<const char*, std::int64_t> kKinds[] = {
      {"q_proj", 576 * 576},     {"k_proj", 192 * 576},   {"v_proj", 192 * 576},    {"o_proj", 576 * 576},
      {"gate_proj", 1536 * 576}, {"up_proj", 1536 * 576}, {"down_proj", 576 * 1536}};
  ModelReport model;
  model.name = variant.name;
  model.path = std::string("out/") + variant.name + ".miq";
  model.digest = "00112233445566778899aabbccddeeff";
  model.architecture = "llama";
  model.tokenizer = "byte-level BPE (smollm)";
  model.layers = layers;
  model.hidden = 576;
  model.vocabulary = 49152;
  model.max_positions = 2048;
  if (variant.method != std::string("dense")) {
    model.method = {{"name", variant.method}, {"damping", 0.01}, {"target_avg_bits", variant.code_bits}, {"group_size", 64}};
    model.calibration = {{"text", "calibrationtext"}, {"windows", 48}, {"seqlen", 512}, {"sampling", "in-order"}};
  }
  model.source = {{"format", "gguf"}, {"digest", "ffeeddccbbaa99887766554433221100"}};
  ParameterCount count;
  SizeFigures size;
  const bool packed = variant.code_bits < 16;
  std::uint64_t codes = 0, kept = 0, stored = 0;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    for (std::size_t k = 0; k < std::size(kKinds); ++k) {
      const auto& [kind, weights] = kKinds[k];
      const double wave = std::sin(0.7 * static_cast<double>(layer) + static_cast<double>(k) * static_cast<double>(k));
      const double share = variant.sparsity * (1 + (variant.mixed ? 0.3 * wave : 0));
      const auto zeros = static_cast<std::int64_t>(share * static_cast<double>(weights));
      const double bits = variant.code_bits + (variant.mixed ? 1.2 * wave : 0);
      count.matrices.push_back({layer, kind, 576, weights / 576, weights, zeros});
      count.decoder_linears += weights;
      count.decoder_linear_zeros += zeros;
      MatrixBits matrix{layer,
                        kind,
                        packed ? "packed" : "dense",
                        static_cast<std::uint64_t>(weights),
                        static_cast<std::uint64_t>(weights - (packed ? zeros : 0)),
                        0,
                        0,
                        {}};
      matrix.code_bits = static_cast<std::uint64_t>(bits * static_cast<double>(matrix.kept));
      matrix.stored_bits = matrix.code_bits + static_cast<std::uint64_t>(variant.overhead_bits * static_cast<double>(weights));
      if (packed)
        matrix.columns_by_bits = variant.mixed ? std::map<int, std::uint64_t>{{2, 64}, {3, 128}, {4, 192}, {6, 128}, {8, 64}}
                                               : std::map<int, std::uint64_t>{{4, 576}};
      codes += matrix.code_bits;
      kept += matrix.kept;
      stored += matrix.stored_bits;
      size.matrices.push_back(matrix);
    }
  }
  const std::int64_t rest = 28'311'552 + layers * 1152 + 576;
  count.total = count.decoder_linears + rest;
  count.nonzero = count.total - count.decoder_linear_zeros;
  count.by_part = {{Part::Embedding, 28'311'552}, {Part::Attention, layers * 2 * (576 + 192) * 576}, {Part::Mlp, layers * 3 * 576 * 1536},
                   {Part::InputNorm, layers * 576}, {Part::PostAttentionNorm, layers * 576}, {Part::FinalNorm, 576}};
  size.code_bits = static_cast<double>(codes) / static_cast<double>(kept);
  size.effective_bits = static_cast<double>(stored) / static_cast<double>(count.decoder_linears);
  size.weight_bytes = stored / 8 + 4 * static_cast<std::uint64_t>(rest);
  size.file_bytes = size.weight_bytes + 2'200'000;
  size.model_bits = 8 * static_cast<double>(size.weight_bytes) / static_cast<double>(count.total);
  size.bytes_by_encoding = {{packed ? "packed" : "dense", stored / 8}};
  model.parameters = count;
  model.size = size;
  const std::pair<const char*, double> texts[] = {{"alice29", variant.first_perplexity}, {"plrabn12", variant.second_perplexity}};
  for (const auto& [name, value] : texts) {
    Perplexity result;
    result.text = name;
    result.path = std::string("texts/") + name + ".txt";
    result.protocol = "gptq";
    result.summary.perplexity = value;
    result.summary.mean_nll = std::log(value);
    result.summary.standard_error = 0.02 * value;
    result.summary.scored = 16 * 1023;
    for (int window = 0; window < 16; ++window)
      result.summary.window_nll.push_back(std::log(value) + 0.05 * std::sin(window) + 0.01 * variant.overhead_bits * std::cos(window));
    result.text_tokens = 41'000;
    result.tokens = 16 * 1024;
    result.windows = 16;
    result.seqlen = 1024;
    result.text_digest = std::string("digest-of-") + name;
    result.source_digest = std::string("source-of-") + name;
    if (!std::isfinite(value)) {
      result.failure = "the loss is not finite in window 3 of 16";
      model.failures.push_back("perplexity of " + result.text + ": " + result.failure);
    }
    model.perplexity.push_back(result);
    if (variant.method == std::string("dense")) continue;
    Divergence& divergence = model.divergence.emplace_back();
    divergence.text = name;
    divergence.reference = "dense";
    divergence.reference_digest = "00112233445566778899aabbccddeeff";
    divergence.tokens = 16 * 1023;
    divergence.mean = 0.1 * variant.code_bits;
    divergence.standard_error = 0.002;
    divergence.median = 0.05;
    divergence.percentile_90 = 0.6;
    divergence.percentile_99 = 2.5;
    divergence.maximum = 9.1;
    divergence.same_top = 0.75;
    divergence.same_top_error = 0.003;
    divergence.loss_correlation = 0.93;
    divergence.log_ratio = 0.2;
    divergence.log_ratio_error = 0.01;
    if (!std::isfinite(value)) divergence.failure = "its tokenizer is another", divergence.comparable = false;
  }
  for (const char* task : {"piqa", "arc_easy"}) {
    ZeroShotResult& result = model.zeroshot.emplace_back();
    result.task = task;
    result.digest = std::string("questions-of-") + task;
    result.items = 200;
    result.choices = 400;
    result.normalised = task == std::string("arc_easy");
    result.accuracy = {0.3 + 0.01 * variant.code_bits, 0.034};
    if (result.normalised) result.accuracy_norm = {0.31, 0.03};
    result.item_scores = {{-3.5, -2.25}};
  }
  if (variant.method != std::string("dense")) {
    model.structure.emplace();
    for (const MatrixBits& matrix : size.matrices) {
      MatrixOutcome& outcome = model.structure->matrices.emplace_back();
      outcome.layer = matrix.layer;
      outcome.name = matrix.name;
      outcome.error = 0.001 * static_cast<double>(1 + (matrix.layer * 7 + static_cast<std::int64_t>(matrix.name.size())) % 11);
      if (!variant.mixed) continue;
      outcome.groups = 9;
      outcome.smallest_group = 32;
      outcome.largest_group = 96;
      if (variant.method == std::string("mi"))
        outcome.information = {0.014, 1.5, 0.02 + 0.001 * static_cast<double>(matrix.layer), 0.013, {{0.03, 0.01}, {0.01, 0.02}}};
    }
  }
  model.throughput = Throughput{1100.0 + 10 * variant.code_bits, 29.8, 32'768, 1024, false};
  model.memory = MemoryFigures{843'000'000, 410'000'000, 64'000'000};
  return model;
}

inline Report sample_report(std::int64_t layers = 30) {
  const Variant variants[] = {
      {"dense", "dense", 32, 0, 0, 24.31, 40.82, false},
      {"sparsegpt", "sparsegpt", 4, 0.03, 0, 51.2, 96.4, false},
      {"enhanced", "enhanced", 4, 0.15, 0, 31.6, 55.9, true},
      {"mi", "mi", 4, 0.34, 0, 27.9, 48.1, true},
      {"mixed", "mixed", 3.98, 0.33, 0, 27.4, 47.3, true},
      {"<b>mi-50</b> & 'co'", "mi", 4, 1.2, 0.5, 46.9, NAN, true},
  };
  Report report;
  report.version = "0.1.0";
  report.torch_version = "2.11.0";
  report.device = "cpu";
  report.device_name = "Some <processor>";
  report.dtype = "bfloat16";
  report.threads = 2;
  report.protocol = "gptq";
  for (const Variant& variant : variants) report.models.push_back(sample_model(variant, layers));
  report.models[3].perplexity[0].calibrated_on = true;
  return report;
}

}  // namespace miq::test

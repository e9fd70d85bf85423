// How far a model's predictions are from those of a reference (the dense model), token by token: the Kullback-Leibler
// divergence KL(reference || model) of the next token's distribution, in nats, over the scored positions of a protocol.
//
// The reference leaves what its head reads, [tokens, width], in an unnamed file; when another model is measured, the logits of
// both are made from it a block of positions at a time. So no logits tensor larger than a block exists, and each model is
// walked once. Figures as llama-perplexity --kl-divergence names them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "miq/evaluate/perplexity.h"
#include "miq/formats/scratch_folder.h"

namespace miq {

// Of each scored position of a window.
struct TokenDivergence {
  std::vector<float> divergence;          // nats, not negative
  std::vector<std::uint8_t> same_top;     // 1: both have the same most likely token (the first of equal ones)
};

// For each row of two arrays of logits [rows, vocabulary] float32. Sums in double; the absolute error is about 1e-7.
// A logit that is not finite gives NaN.
void token_divergence(const float* reference, const float* other, std::int64_t rows, std::int64_t vocabulary, TokenDivergence& to);

// Positions whose target `plan` ignores count nowhere. All arrays are [window][scored position].
Divergence summarise_divergence(const WindowPlan& plan, const std::vector<TokenDivergence>& tokens, const std::vector<std::vector<float>>& losses,
                                const std::vector<std::vector<float>>& reference_losses);

// What a model leaves for the comparison of others with it. Everything is kept until it dies.
class DivergenceReference {
 public:
  DivergenceReference(std::string name, std::shared_ptr<const Model> model, ComputeType type, ScratchFolder scratch, at::Device device = at::kCPU,
                      const MiqCudaTable* kernels = nullptr);

  const std::string& name() const { return name_; }
  const Model& model() const { return *model_; }
  ForwardPass& forward();  // made at the first call, and shared with whoever evaluates the reference itself

  // Its own windows of the texts: planned at the first call, later calls must be for the same texts and options.
  const PlannedTexts& planned(const std::vector<Text>& texts, const PerplexityOptions& options, ThreadPool& pool);

  // Why a model with this plan of text number `text` cannot be compared; empty where it can.
  std::string mismatch(std::size_t text, const WindowPlan& plan, const Model& other) const;

  // Sets disk space aside for text number `text`. Throws Error where there is too little.
  void make_room(std::size_t text);
  // Any thread, one for a window. `hidden` are the states behind the last layer.
  void keep(std::size_t text, std::size_t window, const at::Tensor& hidden);
  bool kept(std::size_t text, std::size_t window) const;
  // Any thread. `hidden` and `forward` are the other model's.
  TokenDivergence compare(std::size_t text, std::size_t window, const ForwardPass& forward, const at::Tensor& hidden) const;

  std::string digest;  // weights_digest, where it is known

  // Losses of its own windows, once they are known: [text][window][position].
  std::vector<std::vector<std::vector<float>>> losses;

 private:
  struct Room {
    std::shared_ptr<std::uint8_t> bytes;
    std::vector<std::int64_t> starts;  // of each window, in rows
    std::vector<std::uint8_t> kept;
  };
  std::string name_;
  std::shared_ptr<const Model> model_;
  ComputeType type_;
  ScratchFolder scratch_;
  at::Device device_;
  const MiqCudaTable* kernels_;
  std::unique_ptr<ForwardPass> forward_;
  std::optional<PlannedTexts> planned_;
  std::vector<Room> rooms_;
  std::int64_t width_ = 0;  // of what the head reads
};

}  // namespace miq

// Results of windows kept between runs, found again by what decides them and never by a path: the digests of the weights and the
// window's tokens, the compute type, the kernels, the program. A window's results depend on that window alone, so another number
// of windows, another protocol with the same windows, or the rest of an interrupted run uses what is there.
//
// A folder of journals (formats/journal.h), one for each subject; a damaged one is begun anew. All of it may be deleted at any time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "miq/base/progress.h"
#include "miq/formats/journal.h"
#include "miq/model/forward.h"

namespace miq {

struct CacheOptions {
  std::string folder;             // made where it is missing; empty: nothing is kept
  Json conditions = Json::object();  // what else decides the numbers: version, processor, LibTorch
  MessageFunction message;        // told when the cache cannot be used; the run goes on without
  std::uint64_t limit = kDefaultLimit;  // bytes of the whole folder, kept by limit_cache()

  static constexpr std::uint64_t kDefaultLimit = std::uint64_t{2} << 30;

  bool on() const { return !folder.empty(); }
};

// Removes the subjects that were not used for the longest time until the rest takes no more than options.limit. What another process has open
// goes too where it is that old; it then measures on without keeping anything. Only folders that the cache made are looked at.
void limit_cache(const CacheOptions& options);

// What decides a model's losses.
Json loss_subject(const ForwardPass& forward, const std::string& weights_digest, const CacheOptions& options);
// What decides the divergence of one model from another, given what decides their losses.
Json divergence_subject(const Json& model, const Json& reference);

// XXH3-128 of the window's tokens and the first scored position.
std::string window_digest(std::span<const std::int32_t> ids, std::int64_t first);

// The results of one subject, while it is measured. Another process that has them open is no obstacle: this one then keeps nothing.
class WindowResults {
 public:
  WindowResults() = default;
  WindowResults(const CacheOptions& options, const Json& subject);

  // A window's values; null where they are not known or not `count`.
  const std::vector<float>* find(const std::string& window, std::size_t count) const;
  // Kept on the disk by the next store().
  void add(const std::string& window, std::span<const float> values);
  void store();

 private:
  void give_up(const std::string& why);

  std::unique_ptr<Journal> journal_;
  MessageFunction message_;
  std::map<std::string, std::vector<float>> known_;
  std::vector<std::string> fresh_;
};

}  // namespace miq

// A record holds the windows of a batch (result_record.h). The journal's own checksums tell whether it is whole.
#include "miq/evaluate/result_cache.h"

#include <algorithm>
#include <filesystem>

#include "miq/base/error.h"
#include "miq/evaluate/result_record.h"
#include "miq/formats/digest.h"
#include "miq/model/device.h"
#include "miq/model/bf16_product.h"

namespace miq {
namespace {

namespace fs = std::filesystem;

// Raised when the meaning of what is kept changes.
constexpr int kResultsVersion = 1;

template <typename T>
Bytes bytes_of(std::span<const T> values) {
  return {reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()};
}

Journal open_journal(const std::string& folder, const Json& subject) {
  if (!Journal::exists(folder)) return Journal::create(folder, subject);
  try {
    return Journal::open(folder, subject);
  } catch (const FormatError&) {  // damaged: begun anew
    fs::remove_all(folder);
    return Journal::create(folder, subject);
  }
}

struct Subject {
  fs::path folder;
  fs::file_time_type used;
  std::uint64_t bytes = 0;
};

// "losses-" and the digest of what they are the losses of.
bool is_subject(const std::string& name) {
  const std::size_t dash = name.find('-');
  if (dash == std::string::npos || name.size() != dash + 1 + kWindowDigits) return false;
  const std::string kind = name.substr(0, dash);
  return (kind == "losses" || kind == "divergence" || kind == "zeroshot") && name.find_first_not_of("0123456789abcdef", dash + 1) == std::string::npos;
}

}  // namespace

void limit_cache(const CacheOptions& options) {
  if (!options.on()) return;
  std::error_code ignored;  // files come and go with other processes
  std::vector<Subject> subjects;
  std::uint64_t total = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(options.folder, ignored)) {
    if (entry.is_symlink(ignored) || !entry.is_directory(ignored) || !is_subject(entry.path().filename().string())) continue;
    Subject subject{entry.path(), fs::last_write_time(entry.path(), ignored)};
    for (const fs::directory_entry& file : fs::directory_iterator(entry.path(), ignored)) {
      const std::uintmax_t bytes = file.is_regular_file(ignored) ? file.file_size(ignored) : 0;
      if (bytes != static_cast<std::uintmax_t>(-1)) subject.bytes += bytes;
    }
    total += subject.bytes;
    subjects.push_back(std::move(subject));
  }
  std::sort(subjects.begin(), subjects.end(), [](const Subject& a, const Subject& b) { return a.used < b.used; });
  for (const Subject& subject : subjects) {
    if (total <= options.limit) return;
    fs::remove_all(subject.folder, ignored);
    total -= subject.bytes;
  }
}

Json loss_subject(const ForwardPass& forward, const std::string& weights_digest, const CacheOptions& options) {
  const bool own = forward.type() == ComputeType::BFloat16 && have_bf16_kernels();
  return {{"results", "losses"},
          {"version", kResultsVersion},
          {"weights", weights_digest},
          {"config", forward.model().config.to_json()},
          {"dtype", compute_type_name(forward.type())},
          {"device", forward.device().is_cpu() ? std::string("cpu") : device_name(forward.device())},
          {"kernels", forward.device_form() ? "libtorch-fused" : own ? "avx512-bf16" : "libtorch"},
          {"conditions", options.conditions}};
}

Json divergence_subject(const Json& model, const Json& reference) {
  return {{"results", "divergence"}, {"version", kResultsVersion}, {"model", model}, {"reference", reference}};
}

std::string window_digest(std::span<const std::int32_t> ids, std::int64_t first) {
  Digest digest;
  digest.add(bytes_of(ids));
  digest.add(bytes_of(std::span<const std::int64_t>(&first, 1)));
  return digest.hex();
}

WindowResults::WindowResults(const CacheOptions& options, const Json& subject) : message_(options.message) {
  if (!options.on()) return;
  try {
    const std::string text = subject.dump();
    const fs::path folder = fs::path(options.folder) / (subject.at("results").get<std::string>() + "-" + digest_of(Blob(text).bytes()));
    fs::create_directories(folder);
    journal_ = std::make_unique<Journal>(open_journal(folder.string(), subject));
    for (const Blob& record : journal_->records()) read_result_record(record.bytes(), known_);
    std::error_code ignored;
    fs::last_write_time(folder, fs::file_time_type::clock::now(), ignored);  // used: limit_cache()
  } catch (const std::exception& error) {  // Error, and those of std::filesystem
    give_up(error.what());
  }
}

void WindowResults::give_up(const std::string& why) {
  journal_.reset();
  if (message_) message_("results are not kept: " + why);
}

const std::vector<float>* WindowResults::find(const std::string& window, std::size_t count) const {
  const auto found = known_.find(window);
  return found == known_.end() || found->second.size() != count ? nullptr : &found->second;
}

void WindowResults::add(const std::string& window, std::span<const float> values) {
  if (!journal_ || find(window, values.size())) return;
  known_[window].assign(values.begin(), values.end());
  fresh_.push_back(window);
}

void WindowResults::store() {
  if (!journal_ || fresh_.empty()) return;
  std::vector<std::uint64_t> counts(fresh_.size());
  std::vector<Bytes> pieces;
  for (std::size_t i = 0; i < fresh_.size(); ++i) {
    const std::vector<float>& values = known_.at(fresh_[i]);
    counts[i] = values.size();
    pieces.push_back(bytes_of(std::span<const char>(fresh_[i])));
    pieces.push_back(bytes_of(std::span<const std::uint64_t>(&counts[i], 1)));
    pieces.push_back(bytes_of(std::span<const float>(values)));
  }
  try {
    journal_->append(pieces);
  } catch (const Error& error) {
    give_up(error.what());
  }
  fresh_.clear();
}

}  // namespace miq

// Fields of a journal's records (spec/journal.md, section 3): written one after the other, read back with every count
// checked against the bytes left.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "miq/base/blob.h"
#include "miq/base/error.h"

namespace miq {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are written as they lie in memory");

class RecordWriter {
 public:
  static constexpr std::size_t kAlignment = 64;

  template <typename T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    const std::size_t at = current_.size();
    current_.resize(at + sizeof value);
    std::memcpy(current_.data() + at, &value, sizeof value);
  }
  void u8(bool value) { put(static_cast<std::uint8_t>(value)); }
  void u64(std::uint64_t value) { put(value); }
  void f64(double value) { put(value); }
  void text(std::string_view text) {
    u64(text.size());
    current_.insert(current_.end(), text.begin(), text.end());
  }
  template <typename T>
  void list(const std::vector<T>& values) {
    static_assert(std::is_arithmetic_v<T>);
    u64(values.size());
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
    current_.insert(current_.end(), bytes, bytes + values.size() * sizeof(T));
  }
  // Kept, not copied.
  void blob(const Blob& blob) {
    u64(blob.size());
    current_.resize(current_.size() + (kAlignment - (finished_ + current_.size()) % kAlignment) % kAlignment);
    finish_current();
    finished_ += blob.size();
    blobs_.push_back(blob);
  }
  // Valid until the next call.
  std::vector<Bytes> pieces() {
    finish_current();
    std::vector<Bytes> result;
    for (const Blob& blob : blobs_) result.push_back(blob.bytes());
    return result;
  }

 private:
  void finish_current() {
    finished_ += current_.size();
    blobs_.emplace_back(std::exchange(current_, {}));
  }
  std::vector<Blob> blobs_;
  std::vector<std::uint8_t> current_;
  std::uint64_t finished_ = 0;
};

// Throws FormatError naming `name` where the record ends too early or says something that cannot be.
class RecordReader {
 public:
  RecordReader(Blob record, std::string name) : record_(std::move(record)), name_(std::move(name)) {}

  template <typename T>
  T get() {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  bool u8() {
    const auto value = get<std::uint8_t>();
    if (value > 1) refuse("a flag is " + std::to_string(value));
    return value == 1;
  }
  std::uint64_t u64() { return get<std::uint64_t>(); }
  double f64() { return get<double>(); }
  // A count of things that take at least `least_bytes` each.
  std::uint64_t count(std::uint64_t least_bytes) {
    const std::uint64_t value = u64();
    if (value > (record_.size() - at_) / least_bytes) refuse("a count of " + std::to_string(value) + " is more than the record holds");
    return value;
  }
  std::string text() {
    const std::uint64_t size = count(1);
    return std::string(reinterpret_cast<const char*>(take(size)), size);
  }
  template <typename T>
  std::vector<T> list() {
    static_assert(std::is_arithmetic_v<T>);
    std::vector<T> values(count(sizeof(T)));
    if (!values.empty()) std::memcpy(values.data(), take(values.size() * sizeof(T)), values.size() * sizeof(T));
    return values;
  }
  Blob blob() {
    const std::uint64_t size = u64();
    take((RecordWriter::kAlignment - at_ % RecordWriter::kAlignment) % RecordWriter::kAlignment);
    if (size > record_.size() - at_) refuse("a blob of " + std::to_string(size) + " bytes is more than the record holds");
    take(size);
    return record_.slice(at_ - size, size);
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw FormatError(name_, at_, what, "Remove the journal's folder and begin anew");
  }

 private:
  const std::uint8_t* take(std::uint64_t size) {
    if (size > record_.size() - at_) refuse("the record ends too early");
    at_ += size;
    return record_.bytes().data() + (at_ - size);
  }
  Blob record_;
  std::string name_;
  std::uint64_t at_ = 0;
};

}  // namespace miq

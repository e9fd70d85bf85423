// A run of immutable bytes together with whatever keeps them alive: a mapped file or a heap buffer.
// Copying a Blob shares the bytes. Thread-safe to read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace miq {

using Bytes = std::span<const std::uint8_t>;

class Blob {
 public:
  Blob() = default;
  // `owner` keeps `bytes` valid for as long as it lives.
  Blob(std::shared_ptr<const void> owner, Bytes bytes) : owner_(std::move(owner)), bytes_(bytes) {}
  explicit Blob(std::vector<std::uint8_t> bytes) {
    auto kept = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
    bytes_ = *kept;
    owner_ = std::move(kept);
  }
  explicit Blob(std::string_view text) : Blob(std::vector<std::uint8_t>(text.begin(), text.end())) {}

  Bytes bytes() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  // REQUIRES: offset + length <= size().
  Blob slice(std::size_t offset, std::size_t length) const { return Blob(owner_, bytes_.subspan(offset, length)); }

 private:
  std::shared_ptr<const void> owner_;
  Bytes bytes_;
};

}  // namespace miq

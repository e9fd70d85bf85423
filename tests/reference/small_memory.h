// Like a GPU of a few bytes: LibTorch's processor memory ends there while one of these lives, with the error that a GPU's would give.
#pragma once

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>

namespace miq::reference {

class SmallMemory : public c10::Allocator {
 public:
  explicit SmallMemory(std::int64_t limit) : before_(c10::GetCPUAllocator()), limit_(limit) {
    one_ = this;
    c10::SetCPUAllocator(this, 100);
  }
  ~SmallMemory() override {
    c10::SetCPUAllocator(before_, 100);
    one_ = nullptr;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    const std::int64_t number = made_++;
    if (used_ + static_cast<std::int64_t>(bytes) > limit_ || (number >= refuse_from_ && number < refuse_to_)) {
      ++refused;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: tried to allocate ", bytes, " bytes");
    }
    used_ += static_cast<std::int64_t>(bytes);
    auto* block = static_cast<std::size_t*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64 + 64));
    *block = bytes;
    return {block + 8, block + 8, &free_block, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  std::int64_t used() const { return used_; }
  std::int64_t made() const { return made_; }  // allocations
  void set_limit(std::int64_t bytes) { limit_ = bytes; }
  // Whatever their size, `count` allocations are refused after `after` more.
  void refuse(std::int64_t after, std::int64_t count) {
    refuse_from_ = made_ + after;
    refuse_to_ = refuse_from_ + count;
  }

  std::atomic<int> refused{0};

 private:
  static void free_block(void* data) {
    std::size_t* const block = static_cast<std::size_t*>(data) - 8;
    if (one_) one_->used_ -= static_cast<std::int64_t>(*block);
    std::free(block);
  }
  static inline SmallMemory* one_ = nullptr;
  c10::Allocator* before_;
  std::atomic<std::int64_t> used_{0}, limit_, made_{0}, refuse_from_{0}, refuse_to_{0};
};

}  // namespace miq::reference

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
    if (used_ + static_cast<std::int64_t>(bytes) > limit_) {
      ++refused;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "out of memory: tried to allocate ", bytes, " bytes");
    }
    used_ += static_cast<std::int64_t>(bytes);
    auto* block = static_cast<std::size_t*>(std::aligned_alloc(64, (bytes + 127) / 64 * 64 + 64));
    *block = bytes;
    return {block + 8, block, &free_block, at::kCPU};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
  std::int64_t used() const { return used_; }
  void set_limit(std::int64_t bytes) { limit_ = bytes; }

  std::atomic<int> refused{0};

 private:
  static void free_block(void* block) {
    if (one_) one_->used_ -= static_cast<std::int64_t>(*static_cast<std::size_t*>(block));
    std::free(block);
  }
  static inline SmallMemory* one_ = nullptr;
  c10::Allocator* before_;
  std::atomic<std::int64_t> used_{0}, limit_;
};

}  // namespace miq::reference

// Memory from the allocator that the session's provider gives to a node: the provider's arena, on the node's device.
#pragma once
#include <utility>

#include "custom_ops/ort_api.h"

namespace cks::ort {

class Allocator {
 public:
  Allocator(const OrtApi& api, const OrtKernelInfo* info) : api_(api) {
    check(api_, api_.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
  }
  ~Allocator() { api_.ReleaseAllocator(allocator_); }
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  const OrtMemoryInfo* memory() const {
    const OrtMemoryInfo* memory = nullptr;
    check(api_, api_.AllocatorGetInfo(allocator_, &memory));
    return memory;
  }
  void* allocate(size_t bytes) const {
    void* data = nullptr;
    check(api_, api_.AllocatorAlloc(allocator_, bytes, &data));
    return data;
  }
  // Called from destructors: a failure to free has nobody left to be told.
  void free(void* data) const noexcept {
    if (OrtStatus* status = api_.AllocatorFree(allocator_, data)) api_.ReleaseStatus(status);
  }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;
};

// A block that goes back to its allocator; may be empty.
class Block {
 public:
  Block() = default;
  Block(const Allocator& allocator, void* data) : allocator_(&allocator), data_(static_cast<char*>(data)) {}
  Block(Block&& other) noexcept : allocator_(other.allocator_), data_(std::exchange(other.data_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Block() {
    if (data_) allocator_->free(data_);
  }
  char* data() const { return data_; }

 private:
  const Allocator* allocator_ = nullptr;
  char* data_ = nullptr;
};

}  // namespace cks::ort

#include "custom_ops/cpu_provider.h"

#include <atomic>
#include <exception>

namespace cks::ort {
namespace {

// One parallel loop on the session's thread pool. An exception must not cross ONNX Runtime's threads: the first one is
// kept and thrown again where the loop was started.
struct Loop {
  const std::function<void(int64_t)>& body;
  std::atomic_flag failed{};
  std::exception_ptr error{};

  static void iterate(void* self, size_t i) noexcept {
    Loop& loop = *static_cast<Loop*>(self);
    try {
      loop.body(static_cast<int64_t>(i));
    } catch (...) {
      if (!loop.failed.test_and_set()) loop.error = std::current_exception();
    }
  }
};

void serially(int64_t count, const std::function<void(int64_t)>& body) {
  for (int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace

CpuProvider::Run::Run(const CpuProvider& provider, const OrtKernelContext* context)
    : provider_(provider),
      parallel_for_([api = &provider.api_, context](int64_t count, const std::function<void(int64_t)>& body) {
        if (count <= 1) return serially(count, body);
        Loop loop{body};
        // Batch 0: each index is handed out by itself, so that uneven bodies balance.
        check(*api, api->KernelContext_ParallelFor(context, &Loop::iterate, static_cast<size_t>(count), 0, &loop));
        if (loop.error) std::rethrow_exception(loop.error);
      }) {}

Block CpuProvider::Run::scratch(size_t bytes) const {
  if (bytes == 0) return {};
  return {provider_.allocator_, provider_.allocator_.allocate(bytes)};
}

// There is no thread pool to borrow while a session starts.
CpuProvider::ConstantFilter::ConstantFilter(const CpuProvider& provider, const FilterUse& use, const OrtValue* weights)
    : packed_(use.filter, use.type, data_of(provider.api_, weights), serially) {}

}  // namespace cks::ort

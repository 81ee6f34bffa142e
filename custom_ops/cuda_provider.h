// The CUDA side of the glue; see cpu_provider.h.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>

#include "custom_ops/allocator.h"
#include "ops_cuda/convolution.h"
#include "ops_cuda/max_pool.h"
#include "ops_cuda/problem_text.h"
#include "ops_cuda/relu_each.h"
#include "ops_cuda/tile_search.h"

namespace cks::ort {

// Launches go to the current device, so a kernel of another device's session makes its own current for a while.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int device_, previous_;
};

class CudaProvider {
 public:
  using Convolution = cuda::Convolution;
  using WeightGradient = cuda::WeightGradient;
  using MaxPool = cuda::MaxPool;

  CudaProvider(const OrtApi& api, const OrtKernelInfo* info);

  class Run {
   public:
    Run(const CudaProvider& provider, const OrtKernelContext* context);
    Precision precision(Precision asked) const;  // strict where the session's use_tf32=0 says so
    bool is_capturing() const;
    Block scratch(size_t bytes) const;  // the arena's blocks are 256-byte aligned
    cuda::Stream stream() const { return stream_; }

   private:
    const CudaProvider& provider_;
    const OrtKernelContext* context_;
    DeviceGuard guard_;
    cuda::Stream stream_ = nullptr;
  };

  // Packed when the session starts. The packed form depends on the precision, and the session's use_tf32 can be read
  // only in a run, so the first run of a session with use_tf32=0 packs once more.
  class ConstantFilter {
   public:
    ConstantFilter(const CudaProvider&, const FilterUse&, const OrtValue* weights);
    const void* get(const Run&, Precision, const OrtValue* weights);

   private:
    void pack(Precision, const OrtValue* weights);

    const CudaProvider& provider_;
    const FilterUse use_;  // with the precision of the attribute
    std::mutex mutex_;     // of packing; runs that find their precision take no lock
    std::atomic<Precision> precision_;
    Block packed_;
  };

  static size_t packed_bytes(const FilterUse& use) { return cuda::packed_filter_bytes(use); }
  static const void* pack(const Run& run, const FilterUse& use, const void* weights, void* packed) {
    cuda::pack_filter(use, weights, packed, run.stream());
    return packed;
  }

  using Spec = cuda::ConvolutionSpec;
  using TileSearch = cuda::TileSearch;
  static constexpr bool kSearchesTiles = true;
  static bool has_tiles(const Spec& spec) { return cuda::has_tile_choices(spec); }
  static bool is_tile(const Spec& spec, const std::string& tile) { return cuda::is_tile_choice(spec, tile); }
  static std::string search_key(const Spec& spec, bool has_residual) {
    return cuda::gpu_name() + "; " + cuda::problem_text(spec, has_residual);
  }
  static std::unique_ptr<const Convolution> plan(const Spec& spec) { return std::make_unique<const Convolution>(spec); }
  static std::unique_ptr<const WeightGradient> plan_gradient(const Problem& problem, DataType type, Layout layout,
                                                             Precision precision) {
    return std::make_unique<const WeightGradient>(problem, type, layout, precision);
  }

  static void convolve(const Run& run, const Convolution& convolution, InputTensors input, const void* filter,
                       const void* bias, const void* residual, void* y, void* workspace) {
    convolution.run(input, filter, bias, residual, y, workspace, run.stream());
  }
  static void differentiate(const Run& run, const WeightGradient& gradient, const void* x, const void* dy, void* dw,
                            void* workspace) {
    gradient.run(x, dy, dw, workspace, run.stream());
  }
  static void pool(const Run& run, const MaxPool& pool, const void* x, void* y) { pool.run(x, y, run.stream()); }
  static void relu_each(const Run& run, std::span<const ReluTensor> tensors, DataType type) {
    cuda::relu_each(tensors, type, run.stream());
  }

 private:
  enum class Tf32 : int8_t { kUnknown, kAllowed, kForbidden };

  const OrtApi& api_;
  Allocator allocator_;
  int device_;
  mutable std::atomic<Tf32> tf32_ = Tf32::kUnknown;
};

}  // namespace cks::ort

#include "custom_ops/cuda_provider.h"

#include <cuda_runtime_api.h>

#include "ops_cuda/private_stream.h"

namespace cks::ort {
namespace {

// From ONNX Runtime's cuda_resource.h, which no package installs: the version that brought use_tf32, and its number.
constexpr int kCudaResourceVersion = 3;
constexpr int kUseTf32Resource = 10011;

int device_of(const OrtApi& api, const Allocator& allocator) {
  int device = 0;
  check(api, api.MemoryInfoGetId(allocator.memory(), &device));
  return device;
}

}  // namespace

DeviceGuard::DeviceGuard(int device) : device_(device) {
  cuda::check(cudaGetDevice(&previous_), "looking for a GPU");
  if (previous_ != device_) cuda::check(cudaSetDevice(device_), "changing to the session's GPU");
}

DeviceGuard::~DeviceGuard() {
  if (previous_ != device_) cudaSetDevice(previous_);
}

CudaProvider::CudaProvider(const OrtApi& api, const OrtKernelInfo* info)
    : api_(api), allocator_(api, info), device_(device_of(api, allocator_)) {}

CudaProvider::Run::Run(const CudaProvider& provider, const OrtKernelContext* context)
    : provider_(provider), context_(context), guard_(provider.device_) {
  void* stream = nullptr;
  check(provider_.api_, provider_.api_.KernelContext_GetGPUComputeStream(context, &stream));
  stream_ = static_cast<cuda::Stream>(stream);
}

Precision CudaProvider::Run::precision(Precision asked) const {
  if (asked == Precision::kFP32) return asked;
  Tf32 tf32 = provider_.tf32_.load(std::memory_order_relaxed);
  if (tf32 == Tf32::kUnknown) {
    void* use_tf32 = nullptr;
    check(provider_.api_,
          provider_.api_.KernelContext_GetResource(context_, kCudaResourceVersion, kUseTf32Resource, &use_tf32));
    tf32 = use_tf32 ? Tf32::kAllowed : Tf32::kForbidden;
    provider_.tf32_.store(tf32, std::memory_order_relaxed);
  }
  return tf32 == Tf32::kAllowed ? Precision::kTF32 : Precision::kFP32;
}

bool CudaProvider::Run::is_capturing() const {
  cudaStreamCaptureStatus status;
  cuda::check(cudaStreamIsCapturing(stream_, &status), "asking whether a graph is being captured");
  return status != cudaStreamCaptureStatusNone;
}

// Not KernelContext_GetAllocator: this block is tied to the run's stream, so the arena does not hand it to a concurrent
// run, on another stream, while our kernels still use it.
Block CudaProvider::Run::scratch(size_t bytes) const {
  if (bytes == 0) return {};
  void* data = nullptr;
  check(provider_.api_,
        provider_.api_.KernelContext_GetScratchBuffer(context_, provider_.allocator_.memory(), bytes, &data));
  return {provider_.allocator_, data};
}

CudaProvider::ConstantFilter::ConstantFilter(const CudaProvider& provider, const FilterUse& use,
                                             const OrtValue* weights)
    : provider_(provider), use_(use), precision_(use.precision) {
  const DeviceGuard guard(provider_.device_);
  pack(use.precision, weights);
}

const void* CudaProvider::ConstantFilter::get(const Run& run, Precision precision, const OrtValue* weights) {
  if (precision_.load(std::memory_order_acquire) != precision) {
    const std::lock_guard lock(mutex_);
    if (precision_.load(std::memory_order_relaxed) != precision) {
      if (run.is_capturing()) throw Error("the session must run once before a CUDA graph is captured");
      pack(precision, weights);
      precision_.store(precision, std::memory_order_release);
    }
  }
  return packed_.data();
}

void CudaProvider::ConstantFilter::pack(Precision precision, const OrtValue* weights) {
  Block staged, packed;              // outlive the stream, which waits for its work
  const cuda::PrivateStream stream;  // ONNX Runtime has none to offer while a session starts
  const void* source = data_of(provider_.api_, weights);
  if (is_in_cpu_memory(provider_.api_, weights)) {
    const size_t bytes = use_.filter.elements() * size_of(use_.type);
    staged = Block(provider_.allocator_, provider_.allocator_.allocate(bytes));
    cuda::check(cudaMemcpyAsync(staged.data(), source, bytes, cudaMemcpyHostToDevice, stream.get()),
                "copying weights to the device");
    source = staged.data();
  }
  FilterUse use = use_;
  use.precision = precision;
  const size_t bytes = cuda::packed_filter_bytes(use);
  packed = Block(provider_.allocator_, provider_.allocator_.allocate(bytes));
  cuda::pack_filter(use, source, packed.data(), stream.get());
  cuda::check(cudaStreamSynchronize(stream.get()), "packing weights");
  packed_ = std::move(packed);
}

}  // namespace cks::ort

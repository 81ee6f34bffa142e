// The Relu of several tensors in one launch. Each is cut into shares of 16 KB, one for a thread block, whose threads
// each have four loads of 16 bytes on their way at once. So two blocks on each of an H200's 132 multiprocessors keep
// 4 MB on their way, which is what its bandwidth and latency ask for (max_pool.cu).
#include <algorithm>

#include "ops_cuda/element.cuh"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/ptx.cuh"
#include "ops_cuda/relu_each.h"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256, kLoads = 4;
constexpr int kMostTensors = 16;  // of a launch
template <class T>
constexpr int kShare = kThreads * kLoads * kChunk<T>;  // elements

struct ReluArgs {
  ReluTensor tensors[kMostTensors];
  uint32_t end_block[kMostTensors];  // the one behind each tensor's last; of no tensor, beyond all
};

__device__ float relu(float v) { return v < 0.f ? 0.f : v; }
__device__ __half relu(__half v) { return __hmax_nan(v, from_float<__half>(0)); }
__device__ __nv_bfloat16 relu(__nv_bfloat16 v) { return __hmax_nan(v, from_float<__nv_bfloat16>(0)); }

template <class T>
__device__ uint32_t relu_word(uint32_t word) {
  if constexpr (std::is_same_v<T, float>) {
    return __float_as_uint(relu(__uint_as_float(word)));
  } else {
    using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
    const uint32_t zeros = 0;
    const Pair pair = __hmax2_nan(*reinterpret_cast<const Pair*>(&word), *reinterpret_cast<const Pair*>(&zeros));
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

template <class T>
__device__ uint4 relu_chunk(uint4 v) {
  return {relu_word<T>(v.x), relu_word<T>(v.y), relu_word<T>(v.z), relu_word<T>(v.w)};
}

template <class T>
__global__ void __launch_bounds__(kThreads) relu_each_kernel(const __grid_constant__ ReluArgs args) {
  ptx::launch_dependents();
  int index = 0;
  uint32_t first_block = 0;
#pragma unroll  // comparisons that do not wait for one another
  for (const uint32_t end : args.end_block) {
    if (blockIdx.x < end) continue;
    ++index;
    first_block = end;
  }
  const int64_t first = int64_t(blockIdx.x - first_block) * kShare<T>;
  const int count = int(min(args.tensors[index].count - first, int64_t(kShare<T>)));
  const T* const x = static_cast<const T*>(args.tensors[index].x) + first;
  T* const y = static_cast<T*>(args.tensors[index].y) + first;
  const bool aligned = (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y)) % kChunkBytes == 0;
  const int chunks = aligned ? count / kChunk<T> : 0;
  ptx::wait_for_previous_grid();

  uint4 loaded[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int chunk = i * kThreads + int(threadIdx.x);
    if (chunk < chunks) loaded[i] = reinterpret_cast<const uint4*>(x)[chunk];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int chunk = i * kThreads + int(threadIdx.x);
    if (chunk < chunks) reinterpret_cast<uint4*>(y)[chunk] = relu_chunk<T>(loaded[i]);
  }
  // Behind the last chunk, or everything where chunks do not fit.
#pragma unroll 1
  for (int i = chunks * kChunk<T> + int(threadIdx.x); i < count; i += kThreads) y[i] = relu(x[i]);
}

template <class T>
void launch_relus(std::span<const ReluTensor> tensors, Stream stream) {
  ReluArgs args{};
  std::ranges::fill(args.end_block, UINT32_MAX);
  uint32_t blocks = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    blocks += uint32_t(ceil_div(tensors[i].count, kShare<T>));  // a GPU's memory holds far fewer than 2^31
    args.tensors[i] = tensors[i];
    args.end_block[i] = blocks;
  }
  if (blocks == 0) return;
  launch_dependent("launching the Relus", relu_each_kernel<T>, dim3(blocks), dim3(kThreads), stream, args);
}

}  // namespace

void relu_each(std::span<const ReluTensor> tensors, DataType type, Stream stream) {
  with_type(type, [&]<class T>(T*) {
    for (size_t i = 0; i < tensors.size(); i += kMostTensors)
      launch_relus<T>(tensors.subspan(i, std::min(tensors.size() - i, size_t(kMostTensors))), stream);
  });
}

}  // namespace cks::cuda

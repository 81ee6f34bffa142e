#include <cuda_fp16.h>

#include "ops_cuda/hopper/pack_halves.h"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/launch.cuh"

namespace cks::cuda::hopper {
namespace {

constexpr int kThreads = 256;

struct PackArgs {
  const float* w;
  int64_t of_k, of_c;  // strides of w; taps are contiguous
  int K, C, taps, channel_blocks, row;
  __half* packed;
  float* scales;
};

// The channel of a k-block at a place of its row, in the order in which HalfRows has those of A.
__device__ int channel_at(int place) {
  const int step = place / 16, pair = place % 16 / 2, half = pair / 4, lane = pair % 4;
  return (lane * 2 + step) * 4 + half * 2 + place % 2;
}

// A block an output channel: first its largest weight, which is brought to a place between 2^13 and 2^14.
__global__ void __launch_bounds__(kThreads) pack_halves_kernel(PackArgs p) {
  const int k = blockIdx.x;
  const float* w = p.w + k * p.of_k;
  __shared__ unsigned largest;  // non-negative floats are ordered as their bits
  if (threadIdx.x == 0) largest = 0;
  __syncthreads();
  float mine = 0;
  for (int i = threadIdx.x; i < p.C * p.taps; i += kThreads) {
    const float v = fabsf(w[i / p.taps * p.of_c + i % p.taps]);
    if (v < INFINITY) mine = fmaxf(mine, v);
  }
  atomicMax(&largest, __float_as_uint(mine));
  __syncthreads();
  const int exponent = min(13 - (int(largest >> 23) - 127), 126);
  const float scale = __uint_as_float(uint32_t(127 + exponent) << 23);
  if (threadIdx.x == 0) p.scales[k] = __uint_as_float(uint32_t(127 - exponent) << 23);

  for (int i = threadIdx.x; i < p.taps * p.channel_blocks * kHalvedBlock; i += kThreads) {
    const int place = i % kHalvedBlock, block = i / kHalvedBlock % p.channel_blocks,
              tap = i / kHalvedBlock / p.channel_blocks;
    const int c = block * kHalvedBlock + channel_at(place);
    const float v = c < p.C ? w[c * p.of_c + tap] * scale : 0.f;
    const __half high = __float2half_rn(v);
    __half* const to = p.packed + ((int64_t(tap) * p.K + k) * p.channel_blocks + block) * p.row + place;
    to[0] = high;
    if (p.row > kHalvedBlock) to[kHalvedBlock] = __float2half_rn(v - __half2float(high));
  }
}

}  // namespace

int64_t HalvesFilter::row_elements() const {
  return ceil_div(filter.C, kHalvedBlock) * filter_row(sizeof(float), products);
}

size_t HalvesFilter::scales_at() const {
  return size_t(round_up(filter.taps() * filter.K * row_elements() * 2, kWorkspaceAlignment));
}

void pack_halves(const HalvesFilter& f, const float* w, void* packed, Stream stream) {
  const int taps = int(f.filter.taps());
  const bool k_first = f.filter.op == Operator::kConv;
  const PackArgs args{w,
                      (k_first ? f.filter.C : 1) * taps,
                      (k_first ? 1 : f.filter.K) * taps,
                      int(f.filter.K),
                      int(f.filter.C),
                      taps,
                      int(ceil_div(f.filter.C, kHalvedBlock)),
                      filter_row(sizeof(float), f.products),
                      static_cast<__half*>(packed),
                      reinterpret_cast<float*>(static_cast<char*>(packed) + f.scales_at())};
  launch("launching the kernel that packs weights", pack_halves_kernel, dim3(unsigned(f.filter.K)), kThreads, stream,
         args);
}

}  // namespace cks::cuda::hopper

// Operands of tensor cores that lie in registers, for kernels that take them from elsewhere than a WarpTile does; and
// strict float as a way to multiply.
#pragma once
#include "ops_cuda/warp_tile.cuh"

namespace cks::cuda {

// kWords registers of an operand, brought once into the form that products take.
template <class Math, int kWords>
struct Fragment {
  uint32_t word[kWords];
  __device__ explicit Fragment(const uint32_t (&v)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) word[i] = v[i];
  }
};

template <class Math>
__device__ void multiply(float (&d)[4], const Fragment<Math, 4>& a, const Fragment<Math, 2>& b) {
  Math::multiply(d, a.word, b.word);
}

// Float as the sum of two tf32, of which three products are made. Each step is summed apart and then added on CUDA
// cores, because tensor cores truncate as they accumulate.
struct SplitTf32Mma {
  using Element = float;
  __device__ static uint32_t prepare(uint32_t v) { return v; }
};

template <int kWords>
struct Fragment<SplitTf32Mma, kWords> {
  uint32_t high[kWords], low[kWords];
  __device__ explicit Fragment(const uint32_t (&v)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      high[i] = ptx::round_to_tf32(v[i]);
      const float rest = __uint_as_float(v[i]) - __uint_as_float(high[i]);
      low[i] = ptx::round_to_tf32(__float_as_uint(rest));  // of an infinity NaN, and so is every sum with it
    }
  }
  // Of what another has made.
  __device__ Fragment(const uint32_t (&highs)[kWords], const uint32_t (&lows)[kWords]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) high[i] = highs[i], low[i] = lows[i];
  }
};

__device__ inline void multiply(float (&d)[4], const Fragment<SplitTf32Mma, 4>& a, const Fragment<SplitTf32Mma, 2>& b) {
  float part[4] = {};
  ptx::mma_tf32(part, a.low, b.high);
  ptx::mma_tf32(part, a.high, b.low);
  ptx::mma_tf32(part, a.high, b.high);
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] += part[i];
}

}  // namespace cks::cuda

// Strict float on tensor cores.
#pragma once
#include "ops_cuda/warp_tile.cuh"

namespace cks::cuda {

// Float as the sum of two tf32: three products, each step summed apart and then added on CUDA cores, because tensor
// cores truncate as they accumulate.
struct SplitTf32Mma {
  using Element = float;
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t high_a[4], low_a[4], high_b[2], low_b[2];
    split(a, high_a, low_a), split(b, high_b, low_b);
    float part[4] = {};
    ptx::mma_tf32(part, low_a, high_b);
    ptx::mma_tf32(part, high_a, low_b);
    ptx::mma_tf32(part, high_a, high_b);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += part[i];
  }
  __device__ static uint32_t prepare(uint32_t v) { return v; }

 private:
  template <int kCount>
  __device__ static void split(const uint32_t (&v)[kCount], uint32_t (&high)[kCount], uint32_t (&low)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      high[i] = ptx::round_to_tf32(v[i]);
      const float rest = __uint_as_float(v[i]) - __uint_as_float(high[i]);
      low[i] = isinf(__uint_as_float(high[i])) ? 0 : ptx::round_to_tf32(__float_as_uint(rest));
    }
  }
};

}  // namespace cks::cuda

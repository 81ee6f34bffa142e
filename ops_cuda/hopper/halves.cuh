// Floats multiplied as halves: the tensor cores take halves at twice the rate of TF32, and a half has TF32's eleven
// significant bits. What it lacks is range, so every row of A has a scale, a power of two, that its thread undoes in
// the sum; the filter has one for each output channel. One half gives TF32's precision. Two, x = high + low, keep 22
// bits, and three products (high * low twice, high * high; low * low is below what a float holds) that of float.
#pragma once
#include "ops_cuda/hopper/wgmma.cuh"

namespace cks::cuda::hopper {

// A k-block of A (32 channels) in registers, for rows lane / 4 and lane / 4 + 8 of a warp's 16 of each row block. Two
// steps of 16 channels. The order of channels within a k-block is free as long as the filter has the same: here a lane
// reads 16 bytes at once, without bank conflicts (pack_halves.cu has the filter's half of this).
template <int kRowBlocks, bool kSplit>
struct HalfRows {
  uint32_t high[kRowBlocks][2][4];
  uint32_t low[kSplit ? kRowBlocks : 1][2][4];
};

// Of a scale, whose inverse is a number too.
inline constexpr int kLargestExponent = 126;
__device__ inline float power_of_two(int exponent) { return __uint_as_float(uint32_t(exponent + 127) << 23); }
// That of a float, rounded down.
__device__ inline int exponent_of(float v) { return int(__float_as_uint(v) >> 23) - 127; }
// The scale that brings a value to an exponent, as far as there is one.
__device__ inline float scale_to(int exponent, float v) {
  return power_of_two(min(exponent - exponent_of(v), kLargestExponent));
}
inline constexpr float kTooLarge = 0x1.ffep15f;  // the least that a half cannot hold
__device__ inline float inverse_of(float power_of_two) {
  return __uint_as_float((254u << 23) - __float_as_uint(power_of_two));
}

// Scales that bring the largest value of each row so far to a place between 2^9 and 2^16: what is 2^-23 of that still
// has all digits of a half. A row that outgrows its scale gets a smaller one.
template <int kRowBlocks>
class RowScales {
 public:
  // Of the tile's rows, of which this lane's first is `row`, the first `count` are pixels. What lies in shared memory
  // behind them is nobody's and must not count: its scale is zero.
  __device__ RowScales(int row, int count) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) scale_[m][i] = row + m * 64 + i * 8 < count ? power_of_two(kLargestExponent) : 0.f;
  }
  __device__ float inverse(int m, int row) const { return inverse_of(scale_[m][row]); }

  // Reads a k-block whose first row (of this lane) is at `rows`. Whether this lane's rows fit their scales; what was
  // infinite in X never does.
  template <bool kSplit>
  __device__ bool convert(uint32_t rows, HalfRows<kRowBlocks, kSplit>& to) const {
    __half2 largest{};
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const float scale = scale_[m][row];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const float4 v = load(rows, m, row, step);
          const float2 pairs[2] = {{v.x * scale, v.y * scale}, {v.z * scale, v.w * scale}};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const __half2 high = __float22half2_rn(pairs[i]);
            largest = __hmax2(largest, __habs2(high));
            to.high[m][step][i * 2 + row] = bits(high);
            if constexpr (kSplit) {
              const float2 back = __half22float2(high);
              to.low[m][step][i * 2 + row] = bits(__floats2half2_rn(pairs[i].x - back.x, pairs[i].y - back.y));
            }
          }
        }
      }
    }
    const uint32_t infinite = bits(__heq2(largest, __half2half2(__ushort_as_half(0x7c00))));
    return infinite == 0;
  }

  // Makes the scales small enough for a k-block. grow(m, row, factor) is told for every row by how much its scale
  // shrinks.
  template <class F>
  __device__ void enlarge(uint32_t rows, F grow) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float largest = 0;  // that is finite
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const float4 v = load(rows, m, row, step);
          for (const float x : {v.x, v.y, v.z, v.w}) {
            if (fabsf(x) < INFINITY) largest = fmaxf(largest, fabsf(x));
          }
        }
#pragma unroll
        for (int lanes = 1; lanes < 4; lanes *= 2)  // the row's other lanes
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, lanes));
        const bool fits = largest * scale_[m][row] < 0x1p15f;
        const float scale = fits ? scale_[m][row] : scale_to(kTarget, largest);
        grow(m, row, scale * inverse(m, row));
        scale_[m][row] = scale;
      }
    }
  }

 private:
  static constexpr int kTarget = 9;
  static __device__ uint32_t bits(__half2 v) { return *reinterpret_cast<uint32_t*>(&v); }
  static __device__ float4 load(uint32_t rows, int m, int row, int step) {
    const int lane = threadIdx.x % 32, chunk = (lane % 4 * 2 + step) ^ (lane / 4);  // the 128-byte swizzle
    return load_shared(rows + m * (64 * 128) + row * (8 * 128) + chunk * 16);
  }

  float scale_[kRowBlocks][2];
};

}  // namespace cks::cuda::hopper

// Floats as one half or two of the weight gradient, scaled by a power of two for each channel.
#pragma once
#include "ops_cuda/element.cuh"
#include "ops_cuda/hopper/halves.cuh"

namespace cks::cuda::hopper {

inline constexpr int kTopExponent = 14;  // of the largest scaled magnitudes: a half holds what is less than 2^16

// v * 2^exponent for what two scales add up to, which one float may not hold.
__device__ inline float times_power(float v, int exponent) {
  const int half = exponent / 2;
  return v * power_of_two(half) * power_of_two(exponent - half);
}

// Infinities and NaNs do not count.
__device__ inline float finite_magnitude(float v) { return fabsf(v) <= 3.402823466e38f ? fabsf(v) : 0.f; }
__device__ inline void raise(float4& most, float4 v) {
  most.x = fmaxf(most.x, finite_magnitude(v.x)), most.y = fmaxf(most.y, finite_magnitude(v.y));
  most.z = fmaxf(most.z, finite_magnitude(v.z)), most.w = fmaxf(most.w, finite_magnitude(v.w));
}

// Of the scale that brings a magnitude to 2^top. The greatest one is enough for subnormal floats.
__device__ inline int exponent_to(int top, float largest) {
  return largest > 0 ? min(top - ilogbf(largest), kLargestExponent) : 0;
}

// Of four channels; with two planes the second has what the first leaves. An infinity leaves NaN.
template <int kPlanes>
__device__ void to_halves(float4 v, float4 scale, uint2 (&halves)[kPlanes]) {
  __half* const type = nullptr;
  float x[4] = {v.x * scale.x, v.y * scale.y, v.z * scale.z, v.w * scale.w};
  halves[0] = {pack_word(x, type), pack_word(x + 2, type)};
  if constexpr (kPlanes == 2) {
    float rounded[4];
    const uint32_t words[2] = {halves[0].x, halves[0].y};
    unpack<__half>(words, rounded);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] -= rounded[j];
    halves[1] = {pack_word(x, type), pack_word(x + 2, type)};
  }
}

}  // namespace cks::cuda::hopper

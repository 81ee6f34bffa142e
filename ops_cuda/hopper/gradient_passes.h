// The passes around the Hopper weight gradient: their arguments, and where to find them.
#pragma once
#include <vector_types.h>

#include <algorithm>

#include "ops_cuda/hopper/gradient_schedule.h"

namespace cks::cuda::hopper {

// Floats become halves, scaled by a power of two for each channel so that its largest finite magnitude lies in [2^14,
// 2^15): as many digits as TF32 has. With two planes the second holds what the first leaves, and together they have 22.
// A value 2^-29 (two planes: 2^-17) of its channel's largest or smaller loses digits.
struct ScaledTensor {
  const float* from;
  void* to;            // [pixels][planes][pitch]
  float* largest;      // [ranges][pitch]
  int32_t* exponents;  // [pitch]: the powers
  int64_t pixels;
  int channels, pitch;  // of floats, of halves; multiples of 4
  int ranges, slices;   // of pixels, of 64 channels: one block for each pair
};
struct ScaleParams {
  ScaledTensor tensors[2];
};
inline constexpr int kScaleThreads = 768;
// Where both tensors have no more than kFewPixels, clusters of so many blocks, one for each slice of both tensors, do
// both passes in one.
inline constexpr int kFewBlocks = 8, kFewThreads = 512;

struct SumParams {
  const float4* partials;
  const GradientSums* sums;                  // [tap]
  const int32_t *k_exponents, *c_exponents;  // null: no scale
  void* dw;
  int K, C, taps, k_squares, c_squares;
};
inline constexpr int kSumThreads = 832;  // at most
// A __global__ function of one SumParams.
struct SumKernel {
  const void* function;
  int groups, taps;  // of a warp: groups of lanes that share the parts, taps at once
  constexpr int blocks_of_square() const { return 32 * groups; }
  constexpr int threads(int all_taps) const {
    return std::clamp(int(ceil_div(all_taps, taps)), 2, kSumThreads / 32) * 32;
  }
  constexpr int shared_bytes(int all_taps) const { return 16 / groups * 8 * all_taps * int(sizeof(float)); }
};

// __global__ functions of one ScaleParams: a block for each range and slice of both tensors, or a cluster for each
// slice.
const void* largest_kernel();
const void* scale_kernel(int planes);
const void* scale_few_kernel(int planes);
// The one for sums of up to so many parts, and so many squares of each tap.
SumKernel sum_kernel(DataType, int splits, int squares, int taps);

}  // namespace cks::cuda::hopper

// How few_pixels_gradient.cu gives a weight gradient that sums few pixels to thread blocks: pure functions, tested
// without a GPU.
//
// Such a gradient is bound by its result, which a block writes as it lies in memory: a tile of 32 output channels by 32
// input channels, with all taps. The block holds all pixels of dY and X in shared memory, a row of 32 channels each.
// Which rows a tap multiplies is a list, made here: the kernel knows neither maps, strides nor padding, and what meets
// padding is in no list.
#pragma once
#include <optional>
#include <vector>

#include "ops_cuda/device_plan.h"

namespace cks::cuda {

inline constexpr int kFewPixelsTile = 32;         // channels of dY and of X
inline constexpr int kFewPixelsStep = 8;          // pixels that are multiplied at once
inline constexpr int kFewPixelsMostWarps = 9;     // of a block, two of which share a multiprocessor
inline constexpr int kFewPixelsUnit = 16;         // bytes: what lists count rows in, 16 bits for each
constexpr int few_pixels_row_bytes(int planes) {  // of floats, one or two; no two of four neighbours share a bank
  return kFewPixelsTile * 4 * planes + 32;
}

struct FewPixelsPlan {
  int dy_rows, x_rows;  // the last of each holds zeros
  int shares;           // of a tap's pixels: where taps are fewer than warps, some sum parts of one
  int warps;
  // 32-bit words: the pixel of each row, counted over all images, first of dY, then of X (-1: zeros); the first step of
  // each share of each tap, taps fastest, and where the last one ends; from steps_at on the steps: rows of dY (low
  // half) and X (high half), in units, in the order 0 4 1 5 2 6 3 7 of the step's pixels.
  std::vector<int32_t> lists;
  int steps_at;
  int sum_pitch;  // floats: of a row of sums, [output channel][input channel][tap]; lanes meet in no bank
  int shared_bytes;
  double cycles;  // that it is expected to take, of 1.7 GHz
};

struct FewPixelsMachine {
  int multiprocessors;
  int shared_bytes, block_shared_bytes;  // of a multiprocessor, and what a block of it may have
};

// None where shared memory does not hold it, or where the lists would be long. `planes`: one for TF32, two for strict
// float, the sum of two TF32.
std::optional<FewPixelsPlan> plan_few_pixels(const Problem&, int planes, const FewPixelsMachine&);

}  // namespace cks::cuda

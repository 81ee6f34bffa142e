// How few_outputs_conv.cuh cuts a convolution with few output channels: pure functions, tested without a GPU.
//
// Every tap and output channel is a column: one matrix product of the input pixels of a patch with all columns reads
// each pixel once, and an output is the sum of the products of its taps, found at the pixels that they meet. Where
// there are too many columns, lines of the filter go in turns.
#pragma once
#include <optional>
#include <vector>

#include "ops_cuda/device_plan.h"

namespace cks::cuda {

inline constexpr int kFewOutputsThreads = 256;
inline constexpr int kFewOutputsColumns = 48;  // of a turn at most
inline constexpr int kFewOutputsRows = 32;     // pixels that a warp multiplies at once

// The taps that reach an output coordinate of a tile on one axis: tap + j * tap_step, j in [0, count), at the patch
// coordinate pixel + j * pixel_step.
struct Reach {
  int16_t tap, count;
  int32_t pixel;
};

struct FewOutputsPlan {
  Int3 box{}, patch{};               // pixels of a tile and of the input patch that it reads
  Int3 patch_first{}, patch_step{};  // tile i begins at input coordinate first + i * step
  Int3 tap_step{}, pixel_step{};
  std::vector<Reach> reaches;  // box.d of them, then box.h, then box.w
  int32_t turn_lines, turns;   // a line: the taps of one (t, r)
  int32_t columns;             // of a turn, as many as the kernel knows: 16, 24 or 48
  int32_t channel_blocks;      // of 64 bytes
  int32_t filter_pitch;        // words of a column's weights in shared memory
  int32_t product_pitch;       // floats of a pixel's products there

  int64_t patch_pixels() const { return int64_t(patch.d) * patch.h * patch.w; }
  int64_t product_rows() const { return round_up(patch_pixels(), kFewOutputsRows); }
  int64_t filter_bytes() const { return int64_t(columns) * filter_pitch * 4; }
  int64_t product_bytes() const { return product_rows() * product_pitch * 4; }
  int64_t reach_bytes() const { return (int64_t(box.d) + box.h + box.w) * int64_t(sizeof(Reach)); }
  int64_t sum_bytes(int64_t K) const { return turns > 1 ? int64_t(box.d) * box.h * box.w * K * 4 : 0; }
  int64_t shared_bytes(int64_t K) const { return filter_bytes() + product_bytes() + reach_bytes() + sum_bytes(K); }
};

// None where the kernel cannot serve the problem with so much shared memory a thread block.
std::optional<FewOutputsPlan> plan_few_outputs(const Problem&, DataType, int multiprocessors, int shared_bytes);

}  // namespace cks::cuda

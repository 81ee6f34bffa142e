// Convolutions with few output channels: the kernel's arguments, and where to find it.
#pragma once
#include "ops_cuda/divider.h"
#include "ops_cuda/epilogue.h"
#include "ops_cuda/few_outputs_plan.h"

namespace cks::cuda {

struct FewOutputsArgs {
  const void *x, *filter;  // filter: [taps][K][packed_pitch]
  const Reach* reaches;
  Int3 input, output, box, patch, patch_first, patch_step, tap_step, pixel_step, filter_extent, tiles;
  uint32_t num_tiles;
  bool filter_is_constant;
  int32_t C, K, lines, turn_lines, turns, packed_pitch;  // a line: the taps of one (t, r)
  int32_t channel_blocks, filter_pitch, product_pitch, product_rows, patch_pixels, num_reaches;
  Divider patch_w, patch_h, box_h;
  int32_t row_threads_log2;             // threads that sum one row of a tile
  int64_t x_image, x_pixel, x_channel;  // strides of x, in elements
  int64_t y_image, y_pixel, y_channel;
  Epilogue epilogue;
};

// The __global__ function of one FewOutputsArgs; `chunks`: x can be read by chunks of 16 bytes. One definition a file,
// so that they compile apart.
const void* few_outputs_half(int columns, bool chunks);
const void* few_outputs_bfloat16(int columns, bool chunks);
const void* few_outputs_tf32(int columns, bool chunks);
const void* few_outputs_float(int columns, bool chunks);

}  // namespace cks::cuda

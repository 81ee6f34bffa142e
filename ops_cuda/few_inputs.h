// Convolutions with few input channels (of a group): the kernel's arguments, and where to find it.
#pragma once
#include "ops_cuda/divider.h"
#include "ops_cuda/epilogue.h"
#include "ops_cuda/few_inputs_plan.h"

namespace cks::cuda {

// A step of 32 bytes of a tap's channels: where it lies in the patch relative to the tap at offset 0, in bytes, and its
// weights' offset at k = 0, in elements.
struct FewInputsStep {
  int32_t patch, weight;
};

struct FewInputsArgs {
  const void *x, *filter;      // filter: [packed groups][taps][packed k][filter_pitch]
  const void* x2;              // null, or the chunks of a pixel from x_chunks on
  const FewInputsWord* words;  // few_inputs_words
  int32_t steps;
  FewInputsStep step[kFewInputsMostSteps];  // few_inputs_steps and few_inputs_wgmma
  int32_t patches;                          // 2: one is copied while the other is read
  int32_t matrix_pitch;                     // few_inputs_wgmma: of eight pixels in the patch, in bytes
  bool filter_is_constant;

  // How a patch is copied. row_units: of one of its rows. parts: units of a pixel, or (planes) channels of a slice.
  PatchSource source;
  Divider row_units, patch_w, patch_h, parts;
  int32_t patch_pixels;
  int32_t copy_pixels;  // chunks: pixels of the patch that a team copies at once, and how far that is
  Int3 copy_step;

  Int3 input, output, stride, pad;
  Int3 box_log2, patch;
  int32_t pixel_pitch, chunk_pitch, row_pitch, lead, origin, patch_words;
  bool shifted;

  // column_blocks: of a slice. slices_together: of a packed group.
  int32_t C, x_chunks, K, slice_c, slice_k, column_blocks, slices_together;
  int32_t packed_k, filter_pitch, filter_taps;

  Int3 tiles;
  uint32_t num_tiles;
  bool channels_first, neighbours;  // of y; neighbours: whole words of it can be stored
  Epilogue epilogue;
};

// The __global__ function of one FewInputsArgs. One definition a file, so that they compile apart.
const void* few_inputs_half(FewInputsShape, int columns);
const void* few_inputs_bfloat16(FewInputsShape, int columns);
const void* few_inputs_tf32(FewInputsShape, int columns);
const void* few_inputs_float(FewInputsShape, int columns);
const void* few_inputs_wgmma_half(int columns);
const void* few_inputs_wgmma_bfloat16(int columns);

}  // namespace cks::cuda

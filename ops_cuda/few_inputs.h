// Convolutions with few input channels (of a group): the kernel's arguments, and where to find it.
#pragma once
#include "ops_cuda/divider.h"
#include "ops_cuda/epilogue.h"
#include "ops_cuda/few_inputs_plan.h"

namespace cks::cuda {

// A step of two chunks, of a tap's channels or of two taps': where they lie in the patch relative to the tap at offset
// 0, in chunks, the first in the low 16 bits; and their weights' offset at k = 0, in elements, or -1: none, zeros for
// whatever chunk of the patch.
struct FewInputsStep {
  uint32_t patch;
  int32_t weight[2];
};

struct FewInputsArgs {
  const void *x, *filter;               // filter: [packed groups][taps][packed k][filter_pitch]
  const void* x2;                       // null, or the parts of a pixel from x_parts on
  const FewInputsWord* words;           // few_inputs_words
  const FewInputsColumn* cell_columns;  // of output cells, else null
  const uint64_t* met_by;
  int32_t steps;
  // few_inputs_steps, which looks at two more than there are, and few_inputs_wgmma
  FewInputsStep step[kFewInputsMostSteps + 2];
  int32_t patches;       // 2: one is copied while the other is read
  int32_t matrix_pitch;  // few_inputs_wgmma: of eight pixels in the patch, in bytes
  bool filter_is_constant;

  bool padded;  // channels of the patch, to whole chunks
  // How a patch is copied. row_units: of one of its rows. parts: units of a pixel, or (planes) channels of a slice.
  PatchSource source;
  Divider row_units, patch_w, patch_h, parts;
  int32_t patch_pixels;
  int32_t copy_pixels;  // chunks, halves: pixels of the patch that a team copies at once, and how far that is
  Int3 copy_step;

  Int3 input, output, stride, pad;
  Int3 box_log2, patch;
  int32_t pixel_pitch, chunk_pitch, row_pitch, lead, origin, patch_words;
  bool shifted;

  // x_parts: of a pixel, of x. column_blocks: of a slice. slices_together: of a packed group.
  int32_t C, x_parts, slice_c, slice_k, column_blocks, slices_together;
  int32_t packed_k, filter_pitch, filter_taps;

  Int3 tiles;
  uint32_t num_tiles;
  // y, in elements: from one output pixel (or cell) to the next along an axis, and from one column to the next, but for
  // the columns of cells.
  int64_t y_image, y_column;
  int32_t y_d, y_h, y_w;
  Int3 cell, outputs;               // outputs of a cell, and of all cells on an axis,
  bool ragged;                      // which some of the last ones do not have
  bool channels_first, neighbours;  // four pixels of a thread are neighbours in y; whole words of y can be stored
  int32_t columns_at;               // in shared memory, in bytes
  Epilogue epilogue;
};

static_assert(sizeof(FewInputsArgs) <= 4096, "what a kernel can be given");

// The __global__ function of one FewInputsArgs. One definition a file, so that they compile apart.
const void* few_inputs_half(FewInputsShape, int columns);
const void* few_inputs_bfloat16(FewInputsShape, int columns);
const void* few_inputs_tf32(FewInputsShape, int columns);
const void* few_inputs_float(FewInputsShape, int columns);
const void* few_inputs_wgmma_half(int columns);
const void* few_inputs_wgmma_bfloat16(int columns);

}  // namespace cks::cuda

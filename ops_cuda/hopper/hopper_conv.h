// The Hopper kernel's arguments, and where to find the kernel of an element type and a tile shape.
#pragma once
#include <cuda.h>
#include <vector_types.h>

#include "ops_cuda/device_plan.h"
#include "ops_cuda/divider.h"
#include "ops_cuda/epilogue.h"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda::hopper {

inline constexpr int kTapsAtOnce = 32;  // a lane of a warp reads one: so many exist behind the last

struct Params {
  CUtensorMap x, x2, filter, y, residual;
  // What a block needs first, side by side.
  const WorkItem* items;  // [rounds][blocks]
  const WorkTap* taps;
  int channel_blocks;  // k-blocks of a tap
  int x_blocks;        // of them, those in x; the others are in x2
  int box_bytes;       // of the tile's pixels, 128 each: the box may have fewer than the tile has rows
  int stages, splits;
  int K;
  // Where taps share a patch: patches in shared memory, and bytes, copied and from one to the next.
  int patch_stages, patch_bytes, patch_pitch;
  bool runs;   // x and x2 are maps in im2col mode
  bool pairs;  // two blocks of a cluster copy each other's pixels (boxes.cuh)
  bool filter_stays;
  int filter_taps;  // of the whole filter: where it stays, it has a stage for each block of channels and tap
  bool filter_is_constant;

  Epilogue epilogue;
  const float* filter_scales;  // of floats: what an output channel's sum is multiplied by
  // Where X was halved (halve.h): what a row's sum is multiplied by. So many rows of a tile that follow each other have
  // one, counted from the tile's image or, where tiles are runs of one line, from the line's beginning.
  const float* x_scales;
  int x_scales_count, rows_of_x_scale;
  bool x_scales_in_line;
  char* partials;                  // of cut tiles, in accumulator order
  unsigned* counters;              // of cut tiles
  int group_pitch, row_blocks[4];  // of patches
  int N;
  Int3 output, out_step;
  Divider box_d, box_h, box_w;
  int box_n;
  bool last_is_half;  // the last k-block of a tap has no channels in its second half
};

Machine current_machine();
Operands operands_of(const ConvolutionSpec&);

// The convolution as this schedule has it, on the current device.
std::unique_ptr<ConvolutionKernel> make_scheduled_conv(const ConvolutionSpec&, const Schedule&);

// The __global__ function of one Params. One definition a file, so that they compile apart. `shape` indexes
// kTileShapes; null where the shape does not serve this way to multiply.
const void* half_kernel(int shape);
const void* bfloat16_kernel(int shape);
const void* tf32_kernel(int shape);
const void* halved_kernel(int shape);
const void* fp32_kernel(int shape);

}  // namespace cks::cuda::hopper

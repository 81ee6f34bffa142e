// The portable implicit GEMM: its kernel arguments, and where to find the kernel of a way to multiply and a tile shape.
#pragma once
#include "ops_cuda/device_plan.h"
#include "ops_cuda/epilogue.h"
#include "ops_cuda/portable_pieces.h"
#include "ops_cuda/tile_choice.h"

namespace cks::cuda {

inline constexpr int kAddedRows = 8;  // of a tile, that a block of the second launch has: many blocks wait less

// Rows are output pixels, columns the output channels of a group; the sum runs over (live tap, channel).
struct PortableConvArgs {
  // A thread block for each piece, or each tile where none is cut (pieces is null then), and each group, and each
  // `tile.n` channels of it, channels fastest.
  const Piece* pieces;
  const WorkTile* tiles;
  const WorkTap* taps;
  const CutTile* cut_tiles;
  float* parts;        // [part][groups][column_tiles], of tiles that are cut
  const void* x;       // [N][pixels of input][groups][group_c]
  const void* filter;  // [groups][filter_taps][group_k][group_c]
  Int3 input, output;
  int32_t groups, group_k, filter_taps;
  int32_t group_c;                      // input channels of a group, zeros included: a multiple of a chunk
  int32_t pixel_chunks;                 // of 16 bytes, of all groups of an input pixel
  int32_t column_tiles;                 // of a group
  int64_t y_image, y_pixel, y_channel;  // strides of y and the residual, in elements
  bool chunks;                          // y can be written by chunks of 16 bytes
  Epilogue epilogue;
};

// A __global__ function of one PortableConvArgs, and what to launch it with; and the one that adds up parts.
struct PortableKernel {
  const void* function;
  int shared_bytes;
  const void* add_parts;
  const char* name;
};

// One definition a file, so that the architectures of each compile apart. `shape` indexes kTileShapes.
PortableKernel half_mma_kernel(int shape);
PortableKernel bfloat16_mma_kernel(int shape);
PortableKernel tf32_mma_kernel(int shape);
PortableKernel float_fma_kernel(int shape);
PortableKernel bfloat16_fma_kernel(int shape);

}  // namespace cks::cuda

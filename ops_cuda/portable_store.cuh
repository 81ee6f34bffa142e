// How the kernels of the portable implicit GEMM store a tile: from slices of its rows in shared memory, whole lines in
// either layout.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/portable_conv.h"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {

// Where in y channel 0 of a tile's pixel lies, in elements.
__device__ inline int64_t output_of(const PortableConvArgs& args, const WorkTile& tile, const TilePixel& p) {
  return p.n * args.y_image + pixel_index(args.output, along(tile.out_origin, tile.out_step, p.q)) * args.y_pixel;
}

// Four floats of padding let a warp read down a column of float4 (channels-first output) without conflicts.
template <TileShape kTile>
inline constexpr int kSlicePitch = kTile.n + 4;

// Stores one slice of kRows rows from shared memory, of which `rows` are pixels; row_offset: where those lie in y.
template <class T, TileShape kTile, int kRows>
__device__ void store_slice(const PortableConvArgs& args, const float* slice, const int64_t* row_offset, int rows,
                            int first_k, int columns) {
  constexpr int kPitch = kSlicePitch<kTile>;
  if (args.chunks) {
    constexpr int kPerRow = kTile.n / kChunk<T>;
    for (int i = threadIdx.x; i < rows * kPerRow; i += kTileThreads) {
      const int row = i / kPerRow, column = i % kPerRow * kChunk<T>;
      if (column >= columns) continue;
      float v[kChunk<T>];
#pragma unroll
      for (int j = 0; j < kChunk<T>; j += 4)
        *reinterpret_cast<float4*>(v + j) = *reinterpret_cast<const float4*>(slice + row * kPitch + column + j);
      store_chunk<T>(args.epilogue, v, first_k + column, row_offset[row] + first_k + column);
    }
    return;
  }
  // Neighbouring threads take neighbouring elements of y: pixels where channels lie apart, else channels.
  constexpr int kPerRow = kTile.n / 4;
  for (int i = threadIdx.x; i < kRows * kPerRow; i += kTileThreads) {
    const bool channels_last = args.y_channel == 1;
    const int row = channels_last ? i / kPerRow : i % kRows;
    const int column = (channels_last ? i % kPerRow : i / kRows) * 4;
    if (row >= rows || column >= columns) continue;
    const float4 sum = *reinterpret_cast<const float4*>(slice + row * kPitch + column);
    const float v[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (column + j < columns) {
        const int64_t k = first_k + column + j;
        store_output<T>(args.epilogue, v[j], k, row_offset[row] + k * args.y_channel);
      }
  }
}

}  // namespace cks::cuda

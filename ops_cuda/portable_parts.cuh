// The second launch of a portable convolution whose sums were cut: adds up the parts of each tile, in the order of
// their k-blocks, so that results are the same every time, and stores it.
#pragma once
#include "ops_cuda/portable_store.cuh"
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {

// A part holds a whole tile's sums, row by row.
template <TileShape kTile>
__device__ float* part_of(const PortableConvArgs& args, int part, int group, int column_tile) {
  const int64_t index = (int64_t(part) * args.groups + group) * args.column_tiles + column_tile;
  return args.parts + index * (kTile.m * kTile.n);
}

// A block kAddedRows rows of a cut tile.
template <class T, int kShape>  // kTileShapes[kShape]
__global__ void __launch_bounds__(kTileThreads) add_parts(const __grid_constant__ PortableConvArgs args) {
  constexpr TileShape kTile = kTileShapes[kShape];
  constexpr int kPerRow = kTile.n / 4, kSlices = kTile.m / kAddedRows;
  __shared__ __align__(16) float slice[kAddedRows * kSlicePitch<kTile>];
  __shared__ int64_t output[kAddedRows];
  const int first_row = blockIdx.x % kSlices * kAddedRows;
  const int column_tile = blockIdx.x / kSlices % args.column_tiles;
  const int group = blockIdx.x / kSlices / args.column_tiles % args.groups;
  const CutTile cut = args.cut_tiles[blockIdx.x / kSlices / args.column_tiles / args.groups];
  const WorkTile tile = args.tiles[cut.tile];
  ptx::launch_dependents();
  const int rows = min(pixels(tile) - first_row, kAddedRows);
  if (int(threadIdx.x) < rows) output[threadIdx.x] = output_of(args, tile, pixel_of_row(tile, first_row + threadIdx.x));
  ptx::wait_for_previous_grid();
  for (int i = threadIdx.x; i < rows * kPerRow; i += kTileThreads) {
    const int row = i / kPerRow, column = i % kPerRow * 4;
    const float* const first =
        part_of<kTile>(args, cut.first_part, group, column_tile) + (first_row + row) * kTile.n + column;
    const int64_t pitch = int64_t(args.groups) * args.column_tiles * (kTile.m * kTile.n);  // from part to part
    float4 sum{};
#pragma unroll 4
    for (int part = 0; part < cut.parts; ++part) {
      const float4 v = *reinterpret_cast<const float4*>(first + part * pitch);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    *reinterpret_cast<float4*>(slice + row * kSlicePitch<kTile> + column) = sum;
  }
  __syncthreads();
  const int first_column = column_tile * kTile.n;
  store_slice<T, kTile, kAddedRows>(args, slice, output, rows, group * args.group_k + first_column,
                                    args.group_k - first_column);
}

}  // namespace cks::cuda

// The portable implicit GEMM, for sm_75 and up: cp.async (plain loads before sm_80) into a ring of shared memory slots,
// ldmatrix and mma.sync (or FMAs) out of it, and an epilogue that turns the tile in shared memory to store whole lines
// in either layout. Where tiles are few, their sums are cut into pieces (portable_pieces.h): a block leaves its part in
// the workspace, and a second launch adds the parts up and stores the tile (portable_parts.cuh).
#pragma once
#include <algorithm>

#include "ops_cuda/pipeline.cuh"
#include "ops_cuda/portable_parts.cuh"
#include "ops_cuda/portable_store.cuh"
#include "ops_cuda/warp_tile.cuh"

namespace cks::cuda {

// Where the rows of a block lie, in shared memory.
struct RowTable {
  struct Input {
    Int3 corner;     // the input pixel that tap offset 0 meets
    uint32_t chunk;  // where that pixel starts in x, in chunks; it wraps where the pixel is outside, and back again
  };
  Input* input;
  int64_t* output;  // where in y channel 0 of the row's pixel lies, in elements

  __device__ void fill(const PortableConvArgs& args, const WorkTile& tile, int count) const {
    const int rows = pixels(tile);
    for (int row = threadIdx.x; row < count; row += blockDim.x) {
      const TilePixel p = pixel_of_row(tile, row);
      Int3 corner = along(tile.in_origin, tile.in_step, p.q);
      const int64_t pixel = int64_t(p.n) * args.input.d * args.input.h * args.input.w + pixel_index(args.input, corner);
      if (row >= rows) corner.d = INT32_MIN / 2;  // no tap brings it inside
      input[row] = {corner, uint32_t(pixel * args.pixel_chunks)};
      output[row] = output_of(args, tile, p);
    }
  }
};

// Fills the slots with k-blocks: a row holds 64 or 128 bytes of the index (tap, channel), for pixels (A) and output
// channels (B). A thread copies the same chunk of a few rows, so it follows one (tap, channel) through the sum. A
// k-block may span taps: few input channels waste nothing.
template <class T, TileShape kTile>
class Loader {
  static constexpr int kRowBytes = kTile.row_bytes, kRowChunks = kRowBytes / kChunkBytes;
  static constexpr int kRowsAtOnce = kTileThreads / kRowChunks;
  static constexpr int kARows = kTile.m / kRowsAtOnce, kBRows = kTile.n / kRowsAtOnce;
  static constexpr int kDepth = kRowBytes / int(sizeof(T));
  static_assert(kRowsAtOnce % 8 == 0, "rows of a thread share their swizzle");

 public:
  static constexpr int kSlotBytes = kRowBytes * (kTile.m + kTile.n);

  // From k-block `first` on, `count` of them. The row table must be complete.
  __device__ Loader(const PortableConvArgs& args, const WorkTile& tile, int first, int count,
                    const RowTable::Input* rows, int group, int first_k)
      : args_(args), blocks_left_(count), taps_(args.taps + tile.first_tap), taps_left_(tile.num_taps) {
    const int row = threadIdx.x / kRowChunks, chunk = threadIdx.x % kRowChunks;
    rows_ = rows + row;
    slot_offset_ = chunk_by_row<kRowBytes>(row, chunk);
    channel_ = chunk * kChunk<T> + first * kDepth;
    x_ = static_cast<const T*>(args.x) + int64_t(group) * args.group_c;
    filter_ = static_cast<const T*>(args.filter) +
              (int64_t(group) * args.filter_taps * args.group_k + first_k + row) * args.group_c;
    filter_rows_ = args.group_k - first_k - row;
    const int taps = channel_ / args.group_c;
    channel_ -= taps * args.group_c, taps_ += taps, taps_left_ -= taps;
    seek();
  }

  // Copies the next k-block, see pipeline.cuh; past the last one nothing, which nobody multiplies.
  __device__ void fetch(uint32_t slot) {
    if (blocks_left_-- <= 0) return;
    const T* const x = x_ + channel_;
#pragma unroll
    for (int i = 0; i < kARows; ++i)
      copies_.fetch(i, slot + slot_offset_ + i * kRowsAtOnce * kRowBytes, x + int64_t(source_[i]) * kChunk<T>,
                    valid_ >> i & 1, args_.filter);
    const T* const filter = filter_source_ + channel_;
#pragma unroll
    for (int j = 0; j < kBRows; ++j)
      copies_.fetch(kARows + j, slot + slot_offset_ + (kTile.m + j * kRowsAtOnce) * kRowBytes,
                    filter + int64_t(j * kRowsAtOnce) * args_.group_c, taps_left_ > 0 && j * kRowsAtOnce < filter_rows_,
                    args_.filter);
    channel_ += kDepth;
    if (channel_ >= args_.group_c) {
      while (channel_ >= args_.group_c) channel_ -= args_.group_c, ++taps_, --taps_left_;
      seek();
    }
  }

  __device__ void land(uint32_t slot) {
#pragma unroll
    for (int i = 0; i < kARows; ++i) copies_.land(i, slot + slot_offset_ + i * kRowsAtOnce * kRowBytes);
#pragma unroll
    for (int j = 0; j < kBRows; ++j)
      copies_.land(kARows + j, slot + slot_offset_ + (kTile.m + j * kRowsAtOnce) * kRowBytes);
  }

 private:
  // Points the sources at the current tap; past the last one everything is zeros.
  __device__ void seek() {
    valid_ = 0;
    if (taps_left_ <= 0) return;
    const int4 raw = __ldg(reinterpret_cast<const int4*>(taps_));
    const Int3 offset{raw.x, raw.y, raw.z};
    const uint32_t chunks = uint32_t(pixel_index(args_.input, offset) * args_.pixel_chunks);
#pragma unroll
    for (int i = 0; i < kARows; ++i) {
      const RowTable::Input row = rows_[i * kRowsAtOnce];
      valid_ |= unsigned(inside(args_.input, row.corner + offset)) << i;
      source_[i] = row.chunk + chunks;
    }
    filter_source_ = filter_ + int64_t(raw.w) * args_.group_k * args_.group_c;
  }

  const PortableConvArgs& args_;
  int blocks_left_;  // to copy
  const RowTable::Input* rows_;
  const WorkTap* taps_;  // the current one
  int taps_left_;        // it included
  int channel_;          // in the group
  int slot_offset_, filter_rows_;
  const T *x_, *filter_, *filter_source_ = nullptr;
  unsigned valid_ = 0;            // a bit a row
  uint32_t source_[kARows] = {};  // where each row's pixel starts in x, in chunks
  ChunkCopies<kARows + kBRows> copies_;
};

// The epilogue goes through shared memory by slices of so many rows.
inline constexpr int kSliceRows = 64;

// Shared memory: the slots, later a slice; then the row table.
template <TileShape kTile>
inline constexpr int kTableOffset =
    std::max(kTile.pipeline_bytes(), kSliceRows* kSlicePitch<kTile>* int(sizeof(float)));
template <TileShape kTile>
inline constexpr int kSharedBytes = kTableOffset<kTile> + kTile.m * int(sizeof(RowTable::Input) + sizeof(int64_t));

// Copies wait in registers before sm_80, whose shared memory holds one block.
#if __CUDA_ARCH__ >= 800
#define CKS_RESIDENT(tile) (tile).resident
#else
#define CKS_RESIDENT(tile) 1
#endif

template <class Math, int kShape>  // kTileShapes[kShape]
__global__ void __launch_bounds__(kTileThreads, CKS_RESIDENT(kTileShapes[kShape]))
    portable_conv(const __grid_constant__ PortableConvArgs args) {
  using T = typename Math::Element;
  constexpr TileShape kTile = kTileShapes[kShape];
  constexpr int kWarpM = kTile.m / 2, kWarpN = kTile.n / 2;
  constexpr int kDepth = kTile.row_bytes / int(sizeof(T));
  static_assert(kTile.m % kSliceRows == 0 && kSliceRows % kWarpM == 0);
  extern __shared__ __align__(128) char shared[];
  const uint32_t slots = ptx::shared_address(shared);
  RowTable table;
  table.input = reinterpret_cast<RowTable::Input*>(shared + kTableOffset<kTile>);
  table.output = reinterpret_cast<int64_t*>(table.input + kTile.m);

  ptx::launch_dependents();
  const int column_tile = blockIdx.x % args.column_tiles;
  const int group = blockIdx.x / args.column_tiles % args.groups;
  const int index = blockIdx.x / args.column_tiles / args.groups;
  const Piece piece = args.pieces ? args.pieces[index] : Piece{index, 0, INT32_MAX, Piece::kWhole};
  const WorkTile tile = args.tiles[piece.tile];
  const int num_blocks = min(piece.count, int((int64_t(tile.num_taps) * args.group_c + kDepth - 1) / kDepth));
  const int first_column = column_tile * kTile.n;
  table.fill(args, tile, kTile.m);
  ptx::wait_for_previous_grid();
  __syncthreads();

  Loader<T, kTile> loader(args, tile, piece.first, num_blocks, table.input, group, first_column);
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / 2 * kWarpM, warp_column = warp % 2 * kWarpN;
  WarpTile<Math, kWarpM, kWarpN> sums;
  run_pipeline<kTile.stages, Loader<T, kTile>::kSlotBytes>(loader, slots, num_blocks, [&](uint32_t slot) {
    sums.template multiply_rows<kTile.row_bytes>(slot, warp_row, slot + kTile.m * kTile.row_bytes, warp_column);
  });

  if (piece.part != Piece::kWhole) {
    float* const part = part_of<kTile>(args, piece.part, group, column_tile);
    sums.for_each_pair([&](int row, int column, float2 v) {
      *reinterpret_cast<float2*>(part + (warp_row + row) * kTile.n + warp_column + column) = v;
    });
    return;
  }
  float* const slice = reinterpret_cast<float*>(shared);
  const int rows = pixels(tile), columns = args.group_k - first_column;
  for (int first_row = 0; first_row < rows; first_row += kSliceRows) {
    __syncthreads();
    if (warp_row / kSliceRows * kSliceRows == first_row)
      sums.for_each_pair([&](int row, int column, float2 v) {
        *reinterpret_cast<float2*>(slice + (warp_row - first_row + row) * kSlicePitch<kTile> + warp_column + column) =
            v;
      });
    __syncthreads();
    store_slice<T, kTile, kSliceRows>(args, slice, table.output + first_row, min(rows - first_row, kSliceRows),
                                      group * args.group_k + first_column, columns);
  }
}

template <class Math, int kShape = 0>
PortableKernel portable_kernel(int shape, const char* name) {
  if constexpr (kShape + 1 < int(std::size(kTileShapes)))
    if (shape != kShape) return portable_kernel<Math, kShape + 1>(shape, name);
  return {reinterpret_cast<const void*>(&portable_conv<Math, kShape>), kSharedBytes<kTileShapes[kShape]>,
          reinterpret_cast<const void*>(&add_parts<typename Math::Element, kShape>), name};
}

}  // namespace cks::cuda

// How the portable and the direct kernels cut a problem: pure functions, tested without a GPU.
#pragma once
#include <cstdint>
#include <iterator>
#include <span>

#include "ops_cuda/kernel.h"
#include "plan/plan.h"

namespace cks::cuda {

// One thread block of 2 x 2 warps computes m output pixels x n output channels, through `stages` slots of shared memory
// that hold row_bytes of summed channels a row. Registers are shared out so that `resident` blocks fit a
// multiprocessor.
struct TileShape {
  int m, n, row_bytes, stages, resident;
  constexpr int pipeline_bytes() const { return row_bytes * (m + n) * stages; }
};
inline constexpr int kTileThreads = 128;

// Long rows halve the barriers; where shared memory is small, short ones leave room for a second block.
inline constexpr TileShape kTileShapes[] = {
    {128, 128, 128, 3, 2}, {128, 128, 64, 3, 2}, {128, 64, 128, 3, 3}, {64, 64, 128, 3, 4}, {64, 32, 128, 4, 4},
};

struct TileQuery {
  int64_t pixels;    // of the output, of all images
  int64_t channels;  // output channels of a group
  int64_t groups;
  double summed_bytes;  // of X, for an output pixel: channels of a group times live taps, in the mean
  Device device;
};

// Index into kTileShapes: the least time by a model of waves of thread blocks, where tiles' sums may be cut.
int choose_tile(const TileQuery&);

// K-blocks of the longest piece that a tile's sum is cut into (portable_pieces.h); INT32_MAX where sums stay whole.
// lengths: of the tiles in k-blocks, one of each for all groups and channels, which are `copies`.
int32_t longest_piece(std::span<const int32_t> lengths, int64_t copies, const TileShape&, const Device&);

// A box of at most `rows` pixels that lie near each other in an image, rather than one that skips the most taps: for
// kernels that wait for memory, and for outputs whose pixels are contiguous.
Box wide_box(const Problem&, int rows);

}  // namespace cks::cuda

// How the portable and the direct kernels cut a problem: pure functions, tested without a GPU.
#pragma once
#include <cstdint>
#include <iterator>

#include "plan/plan.h"

namespace cks::cuda {

// One thread block computes m output pixels x n output channels with warps_m x warps_n warps, through `stages` slots of
// shared memory, each 64 bytes of summed channels deep.
struct TileShape {
  int m, n, warps_m, warps_n, stages;
  constexpr int threads() const { return 32 * warps_m * warps_n; }
  constexpr int pipeline_bytes() const { return 64 * (m + n) * stages; }
};

inline constexpr TileShape kTileShapes[] = {
    {128, 128, 2, 4, 3},
    {128, 64, 2, 2, 4},
    {64, 64, 2, 2, 6},
    {64, 32, 2, 2, 8},
};

struct TileQuery {
  int64_t pixels;    // of the output, of all images
  int64_t channels;  // output channels of a group
  int64_t groups;
  int multiprocessors;
  int shared_bytes;  // of a multiprocessor
};

// Index into kTileShapes: the least time by a model of waves of thread blocks.
int choose_tile(const TileQuery&);

// A box of at most `rows` pixels that lie near each other in an image, rather than one that skips the most taps: for
// kernels that wait for memory, and for outputs whose pixels are contiguous.
Box wide_box(const Problem&, int rows);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace cks::cuda

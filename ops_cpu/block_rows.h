// Where the pixels of a block of tiles lie: the input pixel that each reads for each live tap, and its place in Y.
#pragma once
#include <vector>

#include "ops_cpu/kernels.h"
#include "plan/plan.h"

namespace cks::cpu {

struct TileRows {
  int rows;
  size_t first_tap, taps;
};

// Vectors only grow: a steady run allocates nothing.
struct BlockRows {
  std::vector<TileRows> tiles;
  size_t taps = 0, most_taps = 0;     // of all tiles, and of the one with most
  std::vector<const float*> x;        // [taps][kMaxRows]; zeros where the tap reads outside the input
  std::vector<int32_t> filter, span;  // [taps], as in TapProduct
  std::vector<int64_t> pixel;         // [rows of all tiles]: offset in Y of channel 0
  void clear() { tiles.clear(), pixel.clear(), taps = most_taps = 0; }
};

// What rows are found in: input pixels are x_pitch floats apart, output pixels and images as said (in elements of Y).
struct RowSpace {
  const Problem* problem;
  const Plan* plan;
  const float *x, *zeros;
  int64_t x_pitch, y_pixel_step, y_image_step;
  bool join_taps;  // taps next to each other in the filter and in x make one: both are contiguous
};

void append_rows(const RowSpace&, const Tile&, BlockRows& to);

}  // namespace cks::cpu

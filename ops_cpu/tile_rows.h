// Where the pixels of a tile lie: the input pixel that each reads for each live tap, and its place in the output.
#pragma once
#include <vector>

#include "ops_cpu/kernels.h"
#include "plan/plan.h"

namespace cks::cpu {

struct TileRows {
  int rows = 0;
  std::vector<const float*> x;  // [taps][kMaxRows]; a row of zeros where the tap reads outside the input
  std::vector<int32_t> filter;  // [taps]
  int64_t pixel[kMaxRows];      // offset in Y of channel 0
};

// x: NHWC floats; zeros: C of them; (n, output pixel) lies at n * image_step + pixel * pixel_step in Y. Keeps the
// capacity that `to` has.
void find_rows(const Problem&, const Plan&, const Tile&, const float* x, const float* zeros, int64_t image_step,
               int64_t pixel_step, TileRows& to);

}  // namespace cks::cpu

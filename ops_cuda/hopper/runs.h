// Tiles that are runs of output pixels, row after row and image after image, where boxes would hang over the map: 65 x
// 65 pixels are 34 runs of 128, but 39 boxes. What a run's taps read, TMA copies in its im2col mode. Pure host code.
#pragma once
#include <optional>

#include "plan/plan.h"

namespace cks::cuda::hopper {

// Where im2col's base pixels begin and end: of the input's first pixel and of its last (H, W), as a tensor map has
// them.
struct RunCorners {
  int32_t lower[2], upper[2];
};
RunCorners run_corners(const Problem&);

struct RunsPlan {
  // Its tiles lie in one row of all output pixels; its taps' offsets, {0, h, w}, are what im2col adds to a base pixel.
  Plan plan;
  std::vector<Index3> start;  // of each tile: image, h, w of the base pixel of its first
};

// With runs of `rows` pixels. None where im2col does not reach: transposed convolutions, a depth, and offsets and
// padding beyond the bits that it has for them.
std::optional<RunsPlan> plan_runs(const Problem&, int rows);

}  // namespace cks::cuda::hopper

// What the portable implicit GEMM does of a convolution: its tiles, and the pieces of their sums. Pure host code.
#pragma once
#include "ops_cuda/portable_pieces.h"
#include "ops_cuda/tile_choice.h"
#include "plan/plan.h"

namespace cks::cuda {

struct PortablePlan {
  int shape;  // index into kTileShapes
  Plan plan;
  Pieces pieces;  // of the plan's tiles
};

// layout: of Y.
PortablePlan plan_portable(const Problem&, DataType, Layout layout, const Device&);

// Whether Y's channels lie a whole image apart.
inline bool is_channels_first(const Problem& p, Layout layout) {
  return layout == Layout::kNCHW && volume(p.output) > 1;
}

}  // namespace cks::cuda

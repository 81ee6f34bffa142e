#include "ops_cuda/tile_choice.h"

#include <algorithm>
#include <iterator>

namespace cks::cuda {
namespace {

// Time of one block, up to a common factor, when the multiprocessor has others to run beside it: the operands that it
// loads from shared memory and L2 bound a small tile, the products a large one; short rows meet more barriers.
double block_cost(const TileShape& tile) {
  return std::max(double(tile.m) * tile.n, 48.0 * (tile.m + tile.n)) * (tile.row_bytes < 128 ? 1.1 : 1.0);
}

}  // namespace

int choose_tile(const TileQuery& query) {
  int best = -1;
  double best_time = 0;
  for (int i = 0; i < int(std::size(kTileShapes)); ++i) {
    const TileShape& tile = kTileShapes[i];
    // Beside its slots a block has a table of its rows, and 1 KB that CUDA keeps.
    const int64_t fit = query.shared_bytes / (tile.pipeline_bytes() + 24 * tile.m + 1024);
    if (fit == 0) continue;
    const int64_t blocks = ceil_div(query.pixels, tile.m) * ceil_div(query.channels, tile.n) * query.groups;
    const int64_t busiest = ceil_div(blocks, query.multiprocessors);
    const int64_t together = std::min({busiest, fit, int64_t(tile.resident)});
    // Blocks that share a multiprocessor share its tensor cores, but hide each other's latency.
    const double speed = together == tile.resident ? 1.0 : together == 1 ? 0.5 : 0.7;
    const double time = double(busiest) * block_cost(tile) / speed;
    if (best < 0 || time <= best_time) best = i, best_time = time;
  }
  return best;
}

Box wide_box(const Problem& p, int rows) {
  constexpr int64_t kWidest = 32;  // a warp's worth; wider boxes have fewer rows to share what a filter overlaps
  Box box;
  int64_t left = rows;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t step = p.filter.op == Operator::kConvTranspose ? p.stride[axis] : 1;
    const int64_t count = ceil_div(p.output[axis], step);
    const int64_t most = std::max<int64_t>(1, axis == 2 ? std::min(left, kWidest) : left);
    box.extent[axis] = int32_t(ceil_div(count, ceil_div(count, most)));  // boxes of equal size
    left /= box.extent[axis];
  }
  box.n = int32_t(std::clamp<int64_t>(left, 1, std::max<int64_t>(1, p.N)));
  return box;
}

}  // namespace cks::cuda

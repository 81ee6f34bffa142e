#include "ops_cuda/portable_plan.h"

#include <utility>

#include "ops_cuda/pack.h"

namespace cks::cuda {
namespace {

// Boxes that skip the most; but where pixels of the output are contiguous, wide ones, unless they multiply much more.
Plan plan_tiles(const Problem& p, int rows, double overhead, bool channels_first) {
  Plan plan = make_plan(p, choose_box(p, rows, overhead));
  if (!channels_first) return plan;
  Plan wide = make_plan(p, wide_box(p, rows));
  return double(wide.executed_pixel_taps) < 1.25 * double(plan.executed_pixel_taps) ? std::move(wide) : std::move(plan);
}

}  // namespace

PortablePlan plan_portable(const Problem& p, DataType type, Layout layout, const Device& device) {
  const GemmGroups groups = gemm_groups(p.filter);
  const int64_t pixels = p.N * volume(p.output);
  const int64_t pixel_bytes = padded_channels(groups.c, type) * int64_t(size_of(type));  // of a group
  const double summed_bytes = double(live_pixel_taps(p)) / double(pixels) * double(pixel_bytes);
  PortablePlan r{choose_tile({pixels, groups.k, groups.count, summed_bytes, device}), {}, {}};
  const TileShape& tile = kTileShapes[r.shape];
  // The start and the epilogue of a tile cost about four k-blocks of 64 bytes, in taps:
  const double overhead = 4.0 * 64 / double(pixel_bytes);
  r.plan = plan_tiles(p, tile.m, overhead, is_channels_first(p, layout));
  std::vector<int32_t> lengths;
  for (const Tile& t : r.plan.tiles) lengths.push_back(int32_t(ceil_div(t.num_taps * pixel_bytes, tile.row_bytes)));
  const int64_t copies = groups.count * ceil_div(groups.k, tile.n);
  r.pieces = cut_sums(lengths, longest_piece(lengths, copies, tile, device));
  return r;
}

}  // namespace cks::cuda

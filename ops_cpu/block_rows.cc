#include "ops_cpu/block_rows.h"

#include <algorithm>

namespace cks::cpu {
namespace {

// The pixels of a tile as its taps see them: under offset 0, which may lie outside the input.
struct Origins {
  int rows = 0;
  Index3 at[kMaxRows], low, high;
  const float* x[kMaxRows];
};

Origins find_origins(const RowSpace& space, const Tile& tile, std::vector<int64_t>& y_pixel) {
  const Problem& p = *space.problem;
  const Phase& phase = space.plan->phases[tile.phase];
  Origins origins;
  for (int32_t n = tile.n; n < tile.n + tile.extent_n; ++n)
    for (int32_t d = 0; d < tile.extent[0]; ++d)
      for (int32_t h = 0; h < tile.extent[1]; ++h)
        for (int32_t w = 0; w < tile.extent[2]; ++w, ++origins.rows) {
          const Index3 q{tile.origin[0] + d, tile.origin[1] + h, tile.origin[2] + w};
          Index3& at = origins.at[origins.rows];
          int64_t out = 0, in = n;
          for (int i = 0; i < 3; ++i) {
            at[i] = q[i] * phase.in_step[i];
            in = in * p.input[i] + at[i];
            out = out * p.output[i] + phase.first[i] + int64_t(phase.step[i]) * q[i];
          }
          origins.x[origins.rows] = space.x + in * space.x_pitch;
          y_pixel.push_back(n * space.y_image_step + out * space.y_pixel_step);
        }
  origins.low = origins.at[0];
  origins.high = origins.at[origins.rows - 1];
  return origins;
}

bool inside(const Index3& at, const Index3& offset, const Dims& extent) {
  const auto on_axis = [&](int i) { return uint64_t(int64_t(at[i]) + offset[i]) < uint64_t(extent[i]); };
  return on_axis(0) && on_axis(1) && on_axis(2);
}

bool follows(const Tap& tap, const Tap& before) {
  return tap.filter == before.filter + 1 && tap.offset[0] == before.offset[0] && tap.offset[1] == before.offset[1] &&
         tap.offset[2] == before.offset[2] + 1;
}

}  // namespace

void append_rows(const RowSpace& space, const Tile& tile, BlockRows& to) {
  const Problem& p = *space.problem;
  const Origins origins = find_origins(space, tile, to.pixel);

  const size_t first = to.taps, most = first + size_t(tile.num_taps);
  to.x.resize(std::max(to.x.size(), most * kMaxRows));
  to.filter.resize(std::max(to.filter.size(), most));
  to.span.resize(std::max(to.span.size(), most));
  bool joinable = false;  // the tap before was live for every row
  for (int32_t t = 0; t < tile.num_taps; ++t) {
    const Tap& tap = space.plan->taps[size_t(tile.first_tap + t)];
    const bool all_live = inside(origins.low, tap.offset, p.input) && inside(origins.high, tap.offset, p.input);
    if (all_live && joinable && follows(tap, (&tap)[-1])) {
      ++to.span[to.taps - 1];
      continue;
    }
    joinable = all_live && space.join_taps;
    const auto [d, h, w] = tap.offset;
    const int64_t offset = ((d * p.input[1] + h) * p.input[2] + w) * space.x_pitch;
    const float** x = to.x.data() + to.taps * kMaxRows;
    if (all_live)
      for (int m = 0; m < origins.rows; ++m) x[m] = origins.x[m] + offset;
    else
      for (int m = 0; m < origins.rows; ++m)
        x[m] = inside(origins.at[m], tap.offset, p.input) ? origins.x[m] + offset : space.zeros;
    to.filter[to.taps] = tap.filter;
    to.span[to.taps++] = 1;
  }
  to.most_taps = std::max(to.most_taps, to.taps - first);
  to.tiles.push_back({origins.rows, first, to.taps - first});
}

}  // namespace cks::cpu

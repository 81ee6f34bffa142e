#include "ops_cpu/block_rows.h"

namespace cks::cpu {

void append_rows(const RowSpace& space, const Tile& tile, BlockRows& to) {
  const Problem& p = *space.problem;
  const Phase& phase = space.plan->phases[tile.phase];
  Index3 in[kMaxRows];          // the input pixel under offset 0
  const float* base[kMaxRows];  // where it would be; outside the input it is never read
  int rows = 0;
  for (int32_t n = tile.n; n < tile.n + tile.extent_n; ++n)
    for (int32_t d = 0; d < tile.extent[0]; ++d)
      for (int32_t h = 0; h < tile.extent[1]; ++h)
        for (int32_t w = 0; w < tile.extent[2]; ++w, ++rows) {
          const Index3 q{tile.origin[0] + d, tile.origin[1] + h, tile.origin[2] + w};
          int64_t out = 0, source = n;
          for (int i = 0; i < 3; ++i) {
            out = out * p.output[i] + phase.first[i] + int64_t(phase.step[i]) * q[i];
            in[rows][i] = q[i] * phase.in_step[i];
            source = source * p.input[i] + in[rows][i];
          }
          base[rows] = space.x + source * space.x_pitch;
          to.pixel.push_back(n * space.y_image_step + out * space.y_pixel_step);
        }

  const size_t taps = size_t(tile.num_taps), first = to.filter.size();
  to.tiles.push_back({rows, first, taps});
  to.filter.resize(first + taps);
  to.x.resize((first + taps) * kMaxRows);
  const auto inside = [](int32_t at, int64_t extent) { return uint64_t(int64_t(at)) < uint64_t(extent); };
  for (size_t t = 0; t < taps; ++t) {
    const Tap& tap = space.plan->taps[size_t(tile.first_tap) + t];
    const auto [d, h, w] = tap.offset;
    const int64_t offset = ((d * p.input[1] + h) * p.input[2] + w) * space.x_pitch;
    const float** x = to.x.data() + (first + t) * kMaxRows;
    for (int m = 0; m < rows; ++m) {
      const bool live =
          inside(in[m][0] + d, p.input[0]) & inside(in[m][1] + h, p.input[1]) & inside(in[m][2] + w, p.input[2]);
      x[m] = live ? base[m] + offset : space.zeros;
    }
    to.filter[first + t] = tap.filter;
  }
}

}  // namespace cks::cpu

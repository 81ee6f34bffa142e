#include "ops_cpu/tile_rows.h"

#include <algorithm>

namespace cks::cpu {

void find_rows(const Problem& p, const Plan& plan, const Tile& tile, const float* x, const float* zeros,
               int64_t image_step, int64_t pixel_step, TileRows& to) {
  const Phase& phase = plan.phases[tile.phase];
  const int64_t C = p.filter.C;
  Index3 in[kMaxRows];          // the input pixel under offset 0
  const float* base[kMaxRows];  // where it would be; outside the input it is never read
  int m = 0;
  for (int32_t n = tile.n; n < tile.n + tile.extent_n; ++n)
    for (int32_t d = 0; d < tile.extent[0]; ++d)
      for (int32_t h = 0; h < tile.extent[1]; ++h)
        for (int32_t w = 0; w < tile.extent[2]; ++w, ++m) {
          const Index3 q{tile.origin[0] + d, tile.origin[1] + h, tile.origin[2] + w};
          int64_t out = 0, source = n;
          for (int i = 0; i < 3; ++i) {
            out = out * p.output[i] + phase.first[i] + int64_t(phase.step[i]) * q[i];
            in[m][i] = q[i] * phase.in_step[i];
            source = source * p.input[i] + in[m][i];
          }
          base[m] = x + source * C;
          to.pixel[m] = n * image_step + out * pixel_step;
        }
  to.rows = m;

  const size_t taps = size_t(tile.num_taps);
  to.x.resize(std::max(to.x.size(), taps * kMaxRows));
  to.filter.resize(std::max(to.filter.size(), taps));
  const auto inside = [](int32_t at, int64_t extent) { return uint64_t(int64_t(at)) < uint64_t(extent); };
  for (size_t t = 0; t < taps; ++t) {
    const Tap& tap = plan.taps[tile.first_tap + t];
    const auto [d, h, w] = tap.offset;
    const int64_t offset = ((d * p.input[1] + h) * p.input[2] + w) * C;
    const float** rows = to.x.data() + t * kMaxRows;
    for (int i = 0; i < m; ++i) {
      const bool live =
          inside(in[i][0] + d, p.input[0]) & inside(in[i][1] + h, p.input[1]) & inside(in[i][2] + w, p.input[2]);
      rows[i] = live ? base[i] + offset : zeros;
    }
    to.filter[t] = tap.filter;
  }
}

}  // namespace cks::cpu

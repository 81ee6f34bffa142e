#include <algorithm>
#include <vector>

#include "ops_cpu/convolution.h"
#include "ops_cpu/feature_rows.h"
#include "ops_cpu/kernels.h"

namespace cks::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t aligned(int64_t floats) { return ceil_div(floats, 16) * 16; }

// Sums of at most this many pixels are made first, then added: the rounding error stays that of short sums.
constexpr int64_t kPixelsPerSum = 1024;

// The rows of pixels for which a tap is alive: one run for each (n, d, h), along w.
struct Runs {
  std::vector<GradientRun> runs;
  int64_t length = 0;
};

void find_runs(const Problem& p, const GradientTap& tap, const float* dy, int64_t dy_pitch, const float* x,
               int64_t x_pitch, Runs& to) {
  const auto& [begin, end] = tap.live;
  to.runs.clear();
  to.length = std::max(0, end[2] - begin[2]);
  if (to.length == 0) return;
  const auto in = [&](int axis, int64_t q) { return q * p.stride[axis] + tap.tap.offset[axis]; };
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t d = begin[0]; d < end[0]; ++d)
      for (int64_t h = begin[1]; h < end[1]; ++h) {
        const int64_t out = ((n * p.output[0] + d) * p.output[1] + h) * p.output[2] + begin[2];
        const int64_t source = ((n * p.input[0] + in(0, d)) * p.input[1] + in(1, h)) * p.input[2] + in(2, begin[2]);
        to.runs.push_back({dy + out * dy_pitch, x + source * x_pitch});
      }
}

// `size` channels in blocks. The last one begins early rather than reach beyond them: its first `skip` channels are its
// neighbour's.
struct Blocks {
  int64_t size;
  int width;
  int64_t count() const { return ceil_div(size, width); }
  int64_t first(int64_t i) const { return std::min(i * width, size - width); }
  int skip(int64_t i) const { return int(i * width - first(i)); }
};

}  // namespace

struct WeightGradient::Impl {
  const Kernels& kernels;
  Problem problem;
  DataType type;
  FeatureRows x_rows, dy_rows;
  std::vector<GradientTap> taps;
  bool depthwise;
  Blocks rows, columns;       // of one group: of K and C; depthwise: one row, all groups' columns
  int64_t tiles, tap_blocks;  // tiles of a tap in all, and in how many tasks
  int64_t tiles_per_task;

  Impl(const Problem& p, DataType t, Layout l)
      : kernels(cpu::kernels()),
        problem(p),
        type(t),
        x_rows{t, l, p.N, p.filter.C, volume(p.input)},
        dy_rows{t, l, p.N, p.filter.K, volume(p.output)},
        taps(weight_gradient_taps(p)),
        depthwise(p.filter.groups > 1 && p.filter.C == p.filter.groups && p.filter.K == p.filter.groups) {
    const Filter& f = p.filter;
    const int64_t K = depthwise ? 1 : f.K / f.groups, C = depthwise ? f.C : f.C / f.groups;
    rows = {K, int(std::min<int64_t>(kernels.rows, K))};
    columns = {C, *std::find_if(kernels.widths.begin(), kernels.widths.end(), [&](int w) { return w <= C; })};
    tiles = rows.count() * columns.count() * (depthwise ? 1 : f.groups);
    constexpr double kPerTask = 1 << 19;
    const double tile_work = double(p.N) * double(volume(p.output)) * rows.width * columns.width;
    tiles_per_task = std::clamp<int64_t>(int64_t(kPerTask / std::max(tile_work, 1.0)), 1, tiles);
    tap_blocks = ceil_div(tiles, tiles_per_task);
  }

  int64_t dy_at() const { return aligned(x_rows.workspace_floats()); }
  int64_t floats() const { return dy_at() + aligned(dy_rows.workspace_floats()); }

  void sum(const Runs&, int64_t k, int64_t c, float* total) const;
  void compute_tile(const Runs&, int64_t tile, int64_t tap, void* dw) const;
};

// total[rows][width] for channels k.. of dY and c.. of X, counted over all groups.
void WeightGradient::Impl::sum(const Runs& runs, int64_t k, int64_t c, float* total) const {
  const int64_t size = rows.width * columns.width, count = int64_t(runs.runs.size());
  std::fill_n(total, size, 0.0f);
  const int64_t step = std::max<int64_t>(1, kPixelsPerSum / std::max<int64_t>(runs.length, 1));
  for (int64_t r = 0; r < count; r += step) {
    alignas(64) float part[kMaxRows * kMaxWidth];
    std::fill_n(part, size, 0.0f);
    const GradientProduct product{.runs = runs.runs.data() + r,
                                  .num_runs = std::min(step, count - r),
                                  .length = runs.length,
                                  .dy_step = dy_rows.pitch(),
                                  .x_step = problem.stride[2] * x_rows.pitch(),
                                  .dy_offset = k,
                                  .x_offset = c,
                                  .rows = rows.width,
                                  .width = columns.width};
    (depthwise ? kernels.depthwise_gradient : kernels.gradient_product)(product, part);
    for (int64_t i = 0; i < size; ++i) total[i] += part[i];
  }
}

void WeightGradient::Impl::compute_tile(const Runs& runs, int64_t tile, int64_t tap, void* dw) const {
  const Filter& f = problem.filter;
  const int64_t row_block = tile / columns.count() % rows.count(), column_block = tile % columns.count();
  const int64_t g = tile / (rows.count() * columns.count());
  const int64_t c = g * (f.C / f.groups) + columns.first(column_block);
  const int64_t k = depthwise ? c : g * (f.K / f.groups) + rows.first(row_block);
  alignas(64) float total[kMaxRows * kMaxWidth];
  sum(runs, k, c, total);
  for (int i = rows.skip(row_block); i < rows.width; ++i)
    for (int j = columns.skip(column_block); j < columns.width; ++j) {
      const int64_t at = f.onnx_offset(depthwise ? k + j : k + i, c + j, tap);
      kernels.from_float(total + i * columns.width + j, type, 1,
                         static_cast<std::byte*>(dw) + at * int64_t(size_of(type)));
    }
}

WeightGradient::WeightGradient(const Problem& p, DataType type, Layout layout) : impl_(new Impl(p, type, layout)) {}
WeightGradient::~WeightGradient() = default;

size_t WeightGradient::workspace_bytes() const { return size_t(impl_->floats()) * sizeof(float); }

void WeightGradient::run(const void* x, const void* dy, void* dw, void* workspace,
                         const ParallelFor& parallel_for) const {
  const Impl& self = *impl_;
  float* scratch = static_cast<float*>(workspace);
  const float* x_rows = self.x_rows.make(self.kernels, x, scratch, parallel_for);
  const float* dy_rows = self.dy_rows.make(self.kernels, dy, scratch + self.dy_at(), parallel_for);
  parallel_for(int64_t(self.taps.size()) * self.tap_blocks, [&](int64_t i) {
    thread_local Runs runs;  // kept from run to run: a steady run allocates nothing
    const GradientTap& tap = self.taps[i / self.tap_blocks];
    find_runs(self.problem, tap, dy_rows, self.dy_rows.pitch(), x_rows, self.x_rows.pitch(), runs);
    const int64_t begin = i % self.tap_blocks * self.tiles_per_task;
    const int64_t end = std::min(self.tiles, begin + self.tiles_per_task);
    for (int64_t tile = begin; tile < end; ++tile) self.compute_tile(runs, tile, tap.tap.filter, dw);
  });
}

}  // namespace cks::cpu

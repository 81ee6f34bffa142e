#include <algorithm>
#include <vector>

#include "ops_cpu/convolution.h"
#include "ops_cpu/feature_rows.h"
#include "ops_cpu/kernels.h"

namespace cks::cpu {
namespace {

// Sums of about this many pixels are made first, then added: the rounding error stays that of short sums.
constexpr int64_t kPixelsPerSum = 1024;

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
  // A tile of one group: `rows` channels of one operand times `columns` of the other, side by side in vectors.
  struct Tile {
    int64_t k, c;  // the first channels, counted over all groups
    int row_skip, column_skip;
  };
  // The taps and tiles of one task. A task has all taps where there are tiles enough: they lie together in dW.
  struct Task {
    int64_t tap_begin, tap_end, tile_begin, tile_end;
  };

  const Kernels& kernels;
  Problem problem;
  DataType type;
  FeatureRows x_rows, dy_rows;
  std::vector<GradientTap> taps;
  bool depthwise;
  bool columns_are_k;    // of the two, columns are the side with more channels
  Blocks rows, columns;  // of one group; depthwise: one row, the columns of all groups
  int64_t tiles, tiles_per_task, taps_per_task;

  Impl(const Problem& p, DataType t, Layout l)
      : kernels(cpu::kernels()),
        problem(p),
        type(t),
        x_rows{t, l, p.N, p.filter.C, volume(p.input)},
        dy_rows{t, l, p.N, p.filter.K, volume(p.output)},
        taps(weight_gradient_taps(p)),
        depthwise(choose_packing(kernels, p.filter).kind == Packing::kDepthwise) {
    const Filter& f = p.filter;
    const int64_t K = f.K / f.groups, C = f.C / f.groups;
    columns_are_k = K > C;
    const int64_t row_channels = std::min(K, C), column_channels = depthwise ? f.C : std::max(K, C);
    rows = {row_channels, int(std::min<int64_t>(kernels.rows, row_channels))};
    columns = {column_channels, *std::ranges::find_if(kernels.widths, [&](int w) { return w <= column_channels; })};
    tiles = rows.count() * columns.count() * (depthwise ? 1 : f.groups);

    constexpr double kPerTask = 1 << 19;
    constexpr int64_t kTasks = 32;
    const double work = double(p.N) * double(volume(p.output)) * rows.width * columns.width;  // of a tile and a tap
    const double items = double(tiles) * double(taps.size());
    const int64_t wanted = std::clamp<int64_t>(int64_t(work * items / kPerTask), 1, kTasks);
    tiles_per_task = std::clamp<int64_t>(tiles / wanted, 1, 8);
    const int64_t tap_blocks = std::clamp<int64_t>(wanted / ceil_div(tiles, tiles_per_task), 1, int64_t(taps.size()));
    taps_per_task = ceil_div(int64_t(taps.size()), tap_blocks);
  }

  int64_t tap_blocks() const { return ceil_div(int64_t(taps.size()), taps_per_task); }
  int64_t tasks() const { return ceil_div(tiles, tiles_per_task) * tap_blocks(); }
  Task task(int64_t i) const {
    const int64_t tap = i % tap_blocks() * taps_per_task, tile = i / tap_blocks() * tiles_per_task;
    return {tap, std::min(tap + taps_per_task, int64_t(taps.size())), tile, std::min(tile + tiles_per_task, tiles)};
  }
  Tile tile(int64_t i) const {
    const int64_t row = i / columns.count() % rows.count(), column = i % columns.count();
    const int64_t g = i / (rows.count() * columns.count());
    const int64_t r = rows.first(row), c = columns.first(column);
    const int64_t k0 = g * (problem.filter.K / problem.filter.groups),
                  c0 = g * (problem.filter.C / problem.filter.groups);
    if (depthwise) return {c, c, 0, columns.skip(column)};
    return {k0 + (columns_are_k ? c : r), c0 + (columns_are_k ? r : c), rows.skip(row), columns.skip(column)};
  }

  int64_t dy_at() const { return round_up(x_rows.workspace_floats(), kLineFloats); }
  int64_t floats() const { return dy_at() + round_up(dy_rows.workspace_floats(), kLineFloats); }

  GradientProduct find_runs(const GradientTap&, const float* x, const float* dy, std::vector<GradientRun>&) const;
  void sum(const GradientProduct& runs, const Tile&, float* total) const;
  void store(const Task&, const float* totals, void* dw) const;
};

// The pixels for which a tap is alive, in runs along w: one for each (n, d, h).
GradientProduct WeightGradient::Impl::find_runs(const GradientTap& tap, const float* x, const float* dy,
                                                std::vector<GradientRun>& runs) const {
  const Problem& p = problem;
  const auto& [begin, end] = tap.live;
  const auto in = [&](int axis, int64_t q) { return q * p.stride[axis] + tap.tap.offset[axis]; };
  const int64_t length = std::max(0, end[2] - begin[2]);
  runs.clear();
  for (int64_t n = 0; n < p.N && length > 0; ++n)
    for (int64_t d = begin[0]; d < end[0]; ++d)
      for (int64_t h = begin[1]; h < end[1]; ++h) {
        const int64_t out = ((n * p.output[0] + d) * p.output[1] + h) * p.output[2] + begin[2];
        const int64_t source = ((n * p.input[0] + in(0, d)) * p.input[1] + in(1, h)) * p.input[2] + in(2, begin[2]);
        const float *dy_run = dy + out * dy_rows.pitch(), *x_run = x + source * x_rows.pitch();
        runs.push_back(columns_are_k ? GradientRun{x_run, dy_run} : GradientRun{dy_run, x_run});
      }
  const int64_t x_step = p.stride[2] * x_rows.pitch(), dy_step = dy_rows.pitch();
  return {.runs = runs.data(),
          .num_runs = int64_t(runs.size()),
          .length = length,
          .row_step = columns_are_k ? x_step : dy_step,
          .column_step = columns_are_k ? dy_step : x_step,
          .row_offset = 0,
          .column_offset = 0,
          .rows = rows.width,
          .width = columns.width};
}

void WeightGradient::Impl::sum(const GradientProduct& runs, const Tile& tile, float* total) const {
  const int64_t size = rows.width * columns.width;
  const int64_t step = std::max<int64_t>(1, kPixelsPerSum / std::max<int64_t>(runs.length, 1));
  GradientProduct part = runs;
  part.row_offset = columns_are_k ? tile.c : tile.k;
  part.column_offset = columns_are_k ? tile.k : tile.c;
  std::fill_n(total, size, 0.0f);
  for (int64_t r = 0; r < runs.num_runs; r += step) {
    alignas(64) float sums[kMaxRows * kMaxWidth];
    std::fill_n(sums, size, 0.0f);
    part.runs = runs.runs + r;
    part.num_runs = std::min(step, runs.num_runs - r);
    (depthwise ? kernels.depthwise_gradient : kernels.gradient_product)(part, sums);
    for (int64_t i = 0; i < size; ++i) total[i] += sums[i];
  }
}

// totals: [tiles][taps][rows][columns] of the task.
void WeightGradient::Impl::store(const Task& task, const float* totals, void* dw) const {
  const Filter& f = problem.filter;
  const int64_t size = rows.width * columns.width, num_taps = task.tap_end - task.tap_begin;
  thread_local std::vector<float> line;
  line.resize(size_t(num_taps));
  for (int64_t i = task.tile_begin; i < task.tile_end; ++i, totals += num_taps * size) {
    const Tile at = tile(i);
    for (int r = at.row_skip; r < rows.width; ++r)
      for (int c = at.column_skip; c < columns.width; ++c) {
        const int64_t k = depthwise ? at.k + c : at.k + (columns_are_k ? c : r);
        const int64_t channel = at.c + (columns_are_k ? r : c);
        for (int64_t t = 0; t < num_taps; ++t) line[t] = totals[t * size + r * columns.width + c];
        const int64_t offset = f.onnx_offset(k, channel, task.tap_begin);  // of taps that follow each other
        kernels.from_float(line.data(), type, num_taps, static_cast<std::byte*>(dw) + offset * int64_t(size_of(type)));
      }
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
  const int64_t size = self.rows.width * self.columns.width;

  parallel_for(self.tasks(), [&](int64_t i) {
    const Impl::Task task = self.task(i);
    const int64_t taps = task.tap_end - task.tap_begin;
    thread_local std::vector<GradientRun> runs;  // kept from run to run: a steady run allocates nothing
    thread_local std::vector<float> totals;
    totals.resize(size_t((task.tile_end - task.tile_begin) * taps * size));
    for (int64_t t = 0; t < taps; ++t) {
      const GradientProduct product = self.find_runs(self.taps[task.tap_begin + t], x_rows, dy_rows, runs);
      for (int64_t tile = task.tile_begin; tile < task.tile_end; ++tile)
        self.sum(product, self.tile(tile), totals.data() + ((tile - task.tile_begin) * taps + t) * size);
    }
    self.store(task, totals.data(), dw);
  });
}

}  // namespace cks::cpu

#include "ops_cpu/convolution.h"

#include <algorithm>

#include "ops_cpu/feature_rows.h"
#include "ops_cpu/kernels.h"
#include "ops_cpu/tile_rows.h"

namespace cks::cpu {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Taps' worth of time that a tile costs beside its own: finding its rows, storing its sums.
constexpr double kTileOverhead = 0.5;

// The units that run in parallel: a block of tiles times a range of panels. All tiles of a block meet one panel before
// the next, so that the panel is read from the cache.
struct Schedule {
  int64_t tiles, panels;  // in one task
  int64_t tile_blocks, panel_blocks;
};

Schedule schedule(int64_t tiles, int64_t panels, double multiply_adds) {
  constexpr double kPerTask = 1 << 19;  // about ten microseconds: well above the cost of starting a task
  constexpr int64_t kTasks = 256, kTiles = 8;
  const int64_t wanted = std::clamp<int64_t>(int64_t(multiply_adds / kPerTask), 1, kTasks);
  Schedule s;
  s.tiles = std::clamp<int64_t>(tiles / wanted, 1, kTiles);
  s.tile_blocks = ceil_div(tiles, s.tiles);
  s.panels = ceil_div(panels, std::clamp<int64_t>(ceil_div(wanted, std::max<int64_t>(s.tile_blocks, 1)), 1, panels));
  s.panel_blocks = ceil_div(panels, s.panels);
  return s;
}

int64_t aligned(int64_t floats) { return ceil_div(floats, 16) * 16; }

}  // namespace

struct Convolution::Impl {
  const Kernels& kernels;
  Problem problem;
  DataType type;
  Layout layout;
  Activation activation;
  Plan plan;
  FeatureRows rows;
  bool depthwise;
  int width;
  int64_t panels;  // in one group; depthwise: in all
  Schedule tasks;

  Impl(const Problem& p, DataType t, Layout l, const Activation& a)
      : kernels(cpu::kernels()),
        problem(p),
        type(t),
        layout(l),
        activation(a),
        plan(make_plan(p, choose_box(p, kernels.rows, kTileOverhead))),
        rows{t, l, p.N, p.filter.C, volume(p.input)},
        depthwise(is_depthwise(p.filter)) {
    const Filter& f = p.filter;
    const int64_t Cg = f.C / f.groups, Kg = f.K / f.groups;
    if (depthwise) {
      // The last panel overlaps its neighbour rather than reach beyond the channels.
      width = *std::find_if(kernels.widths.begin(), kernels.widths.end(), [&](int w) { return w <= f.K; });
      panels = ceil_div(f.K, width);
    } else {
      width = panel_width(kernels, Kg);
      panels = ceil_div(Kg, width);
    }
    const int64_t all_panels = depthwise ? panels : panels * f.groups;
    tasks = schedule(int64_t(plan.tiles.size()), all_panels,
                     double(plan.executed_pixel_taps) * double(Cg) * double(all_panels) * width);
  }

  // Workspace: X's rows, a row of zeros, the bias.
  int64_t zeros_at() const { return aligned(rows.workspace_floats()); }
  int64_t bias_at() const { return zeros_at() + aligned(problem.filter.C); }
  int64_t floats() const { return bias_at() + aligned(problem.filter.K); }

  void multiply(const TileRows& tile, const Tile& planned, int64_t panel, const float* w, const Epilogue&) const;
};

void Convolution::Impl::multiply(const TileRows& tile, const Tile& planned, int64_t panel, const float* w,
                                 const Epilogue& epilogue) const {
  const Filter& f = problem.filter;
  alignas(64) float acc[kMaxRows * kMaxWidth];
  TapProduct product{.x = tile.x.data(),
                     .x_offset = 0,
                     .w = w,
                     .filter = tile.filter.data(),
                     .slab = 0,
                     .taps = planned.num_taps,
                     .channels = f.C / f.groups,
                     .rows = tile.rows,
                     .width = width};
  if (depthwise) {
    const int64_t k = panel * width, first = std::min(k, f.K - width);
    product.x_offset = first;
    product.w += first;
    product.slab = f.K;
    kernels.depthwise_product(product, acc);
    kernels.store(epilogue, acc, tile.rows, width, int(k - first), int(first + width - k), tile.pixel, k);
    return;
  }
  const int64_t g = panel / panels, Kg = f.K / f.groups, k = panel % panels * width;
  product.x_offset = g * product.channels;
  product.slab = product.channels * width;
  product.w += panel * f.taps() * product.slab;
  kernels.tap_product(product, acc);
  kernels.store(epilogue, acc, tile.rows, width, 0, int(std::min<int64_t>(width, Kg - k)), tile.pixel, g * Kg + k);
}

Convolution::Convolution(const Problem& p, DataType type, Layout layout, const Activation& activation)
    : impl_(new Impl(p, type, layout, activation)) {}
Convolution::~Convolution() = default;

size_t Convolution::workspace_bytes() const { return size_t(impl_->floats()) * sizeof(float); }

void Convolution::run(const void* x, const PackedFilter& filter, const void* bias, const void* residual, void* y,
                      void* workspace, const ParallelFor& parallel_for) const {
  const Impl& self = *impl_;
  const Filter& f = self.problem.filter;
  float* scratch = static_cast<float*>(workspace);
  const float* x_rows = self.rows.make(self.kernels, x, scratch, parallel_for);
  float* zeros = scratch + self.zeros_at();
  std::fill_n(zeros, f.C, 0.0f);
  float* b = scratch + self.bias_at();
  if (bias)
    self.kernels.to_float(bias, self.type, f.K, b);
  else
    std::fill_n(b, f.K, 0.0f);

  const int64_t pixels = volume(self.problem.output);
  const bool rows_out = self.layout == Layout::kNHWC;
  const Epilogue epilogue{.type = self.type,
                          .activation = self.activation,
                          .bias = b,
                          .residual = residual,
                          .y = y,
                          .channel_step = rows_out ? 1 : pixels};
  const Schedule& s = self.tasks;
  const int64_t all_panels = self.depthwise ? self.panels : self.panels * f.groups;
  parallel_for(s.tile_blocks * s.panel_blocks, [&](int64_t i) {
    thread_local std::vector<TileRows> tiles;  // kept from run to run: a steady run allocates nothing
    const int64_t first = i / s.panel_blocks * s.tiles;
    const int64_t count = std::min(s.tiles, int64_t(self.plan.tiles.size()) - first);
    if (int64_t(tiles.size()) < count) tiles.resize(size_t(count));
    for (int64_t t = 0; t < count; ++t)
      find_rows(self.problem, self.plan, self.plan.tiles[first + t], x_rows, zeros, f.K * pixels, rows_out ? f.K : 1,
                tiles[t]);
    const int64_t panel_begin = i % s.panel_blocks * s.panels;
    const int64_t panel_end = std::min(all_panels, panel_begin + s.panels);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel)
      for (int64_t t = 0; t < count; ++t)
        self.multiply(tiles[t], self.plan.tiles[first + t], panel, filter.data(), epilogue);
  });
}

}  // namespace cks::cpu

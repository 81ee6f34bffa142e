#include "ops_cpu/convolution.h"

#include <algorithm>

#include "ops_cpu/block_rows.h"
#include "ops_cpu/concatenate.h"
#include "ops_cpu/feature_rows.h"
#include "ops_cpu/kernels.h"

namespace cks::cpu {
namespace {

// Taps' worth of time that a tile costs beside its own: finding its rows, storing its sums.
constexpr double kTileOverhead = 0.5;
constexpr int kBlockTiles = 8;

// The units that run in parallel: a block of tiles times a range of panels. All tiles of a block meet one panel before
// the next, so that the panel is read from the cache, and their sums are stored together.
struct Schedule {
  int64_t tiles, panels;  // in one task
  int64_t panel_blocks;
};

Schedule schedule(int64_t tiles, int64_t panels, double multiply_adds) {
  constexpr double kPerTask = 1 << 19;  // about ten microseconds: well above the cost of starting a task
  constexpr int64_t kTasks = 64;        // enough for an even load where panels must be cut
  const int64_t wanted = std::clamp<int64_t>(int64_t(multiply_adds / kPerTask), 1, kTasks);
  // Panels are cut before blocks: two blocks that meet the same panel read its weights twice.
  Schedule s;
  s.tiles = std::clamp<int64_t>(tiles * panels / wanted, 1, kBlockTiles);
  s.panels = std::clamp<int64_t>(ceil_div(tiles, s.tiles) * panels / wanted, 1, panels);
  s.panel_blocks = ceil_div(panels, s.panels);
  return s;
}

struct Block {
  int64_t first, tiles;
  int64_t cost;
};

// Orders the tiles as their pixels lie in Y, those of all phases side by side, so that what a block stores is
// contiguous or nearly so. Returns the blocks, the costliest first.
std::vector<Block> cut_blocks(Plan& plan, int64_t tiles_per_block) {
  const auto place = [&](const Tile& t) {
    const Index3 &o = t.origin, &first = plan.phases[t.phase].first;
    return std::array{t.n, o[0], first[0], o[1], first[1], o[2], first[2]};
  };
  std::ranges::sort(plan.tiles, {}, place);
  std::vector<Block> blocks;
  for (int64_t first = 0; first < int64_t(plan.tiles.size()); first += tiles_per_block) {
    Block b{first, std::min(tiles_per_block, int64_t(plan.tiles.size()) - first), 0};
    for (int64_t t = first; t < first + b.tiles; ++t) b.cost += plan.tiles[t].num_taps;
    blocks.push_back(b);
  }
  std::ranges::stable_sort(blocks, std::greater<>{}, &Block::cost);
  return blocks;
}

}  // namespace

struct Convolution::Impl {
  const Kernels& kernels;
  Problem problem;
  DataType type;
  Layouts layouts;
  Activation activation;
  float residual_slope;  // undoes the residual's LeakyRelu
  Plan plan;
  Concatenation joined;
  FeatureRows rows;
  Packing packing;
  Schedule tasks;
  std::vector<Block> blocks;

  Impl(const Problem& p, DataType t, Layouts l, const Activation& a, float residual_alpha)
      : kernels(cpu::kernels()),
        problem(p),
        type(t),
        layouts(l),
        activation(a),
        residual_slope(1 / residual_alpha),
        plan(make_plan(p, choose_box(p, kernels.rows, kTileOverhead))),
        joined{p.N * volume(p.input), (p.filter.C - p.x2_channels) * int64_t(size_of(t)),
               p.x2_channels * int64_t(size_of(t))},
        rows{t, l.x, p.N, p.filter.C, volume(p.input)},
        packing(choose_packing(kernels, p.filter)),
        tasks(schedule(int64_t(plan.tiles.size()), packing.panels,
                       double(plan.executed_pixel_taps) * double(p.filter.C / p.filter.groups) *
                           double(packing.panels) * packing.width)) {
    blocks = cut_blocks(plan, tasks.tiles);
  }

  // Workspace: X's rows, a row of zeros, the bias, X and X2 as one tensor.
  int64_t zeros_at() const { return round_up(rows.workspace_floats(), kLineFloats); }
  int64_t bias_at() const { return zeros_at() + round_up(problem.filter.C, kLineFloats); }
  int64_t joined_at() const { return bias_at() + round_up(problem.filter.K, kLineFloats); }
  size_t bytes() const { return size_t(joined_at()) * sizeof(float) + (problem.x2_channels ? joined.bytes() : 0); }

  // What one panel multiplies; its channels are [k, k + count) of Y, after `skip` that are its neighbour's.
  struct Panel {
    TapProduct product;  // but for the tile
    void (*multiply)(const TapProduct&, float* sums);
    int64_t k;
    int skip, count;
  };
  Panel panel(int64_t i, const float* w) const;
  void multiply(const BlockRows&, Panel, const Epilogue&) const;
};

Convolution::Impl::Panel Convolution::Impl::panel(int64_t i, const float* w) const {
  const Filter& f = problem.filter;
  const int64_t Cg = f.C / f.groups, Kg = f.K / f.groups, width = packing.width;
  const int64_t g = i / packing.group_panels, in_group = i % packing.group_panels * width;
  Panel p{};
  p.product.width = packing.width;
  p.product.channels = Cg;
  if (packing.kind == Packing::kDepthwise) {
    p.k = i * width;
    p.product.x_offset = std::min(p.k, f.K - width);
    p.product.w = w + p.product.x_offset, p.product.slab = f.K;
    p.skip = int(p.k - p.product.x_offset), p.count = packing.width - p.skip;
    p.multiply = kernels.depthwise_product;
    return p;
  }
  p.k = g * Kg + in_group, p.count = int(std::min(width, Kg - in_group));
  p.product.x_offset = g * Cg, p.product.slab = Cg * width;
  p.product.w = w + i * f.taps() * p.product.slab;
  p.multiply = packing.kind == Packing::kNarrow ? kernels.narrow_product : kernels.tap_product;
  return p;
}

void Convolution::Impl::multiply(const BlockRows& block, Panel panel, const Epilogue& epilogue) const {
  TapProduct& product = panel.product;
  alignas(64) float sums[kBlockTiles * kMaxRows * kMaxWidth];
  // All tiles take a few taps, then the next few: weights that the cache holds are read from memory once.
  constexpr int64_t kCachedFloats = 1 << 16;
  const int64_t taps = problem.filter.taps();
  const bool large = packing.kind == Packing::kWide && product.slab * taps > kCachedFloats;
  const size_t taps_at_once = size_t(large ? std::max<int64_t>(1, kCachedFloats / product.slab) : taps);
  for (size_t first = 0; first == 0 || first < block.most_taps; first += taps_at_once) {
    product.accumulate = first > 0;
    float* to = sums;
    for (const TileRows& tile : block.tiles) {
      product.fetch_ahead = large && to == sums;
      if (first == 0 || first < tile.taps) {
        product.taps = int64_t(std::min(taps_at_once, tile.taps - first));
        product.x = block.x.data() + (tile.first_tap + first) * kMaxRows;
        product.filter = block.filter.data() + tile.first_tap + first;
        product.span = block.span.data() + tile.first_tap + first;
        product.rows = tile.rows;
        panel.multiply(product, to);
      }
      to += tile.rows * product.width;
    }
  }
  kernels.store(epilogue, sums, int(block.pixel.size()), product.width, panel.skip, panel.count, block.pixel.data(),
                panel.k);
}

Convolution::Convolution(const Problem& p, DataType type, Layouts layouts, const Activation& activation,
                         float residual_alpha)
    : impl_(new Impl(p, type, layouts, activation, residual_alpha)) {}
Convolution::~Convolution() = default;

size_t Convolution::workspace_bytes() const { return impl_->bytes(); }

void Convolution::run(InputTensors input, const PackedFilter& filter, const void* bias, const void* residual, void* y,
                      void* workspace, const ParallelFor& parallel_for) const {
  const Impl& self = *impl_;
  const Filter& f = self.problem.filter;
  float* scratch = static_cast<float*>(workspace);
  const void* x = input.x;
  if (input.x2) {
    self.joined.make(input, scratch + self.joined_at(), parallel_for);
    x = scratch + self.joined_at();
  }
  const float* x_rows = self.rows.make(self.kernels, x, scratch, parallel_for);
  float* zeros = scratch + self.zeros_at();
  std::fill_n(zeros, f.C, 0.0f);
  float* b = scratch + self.bias_at();
  if (bias)
    self.kernels.to_float(bias, self.type, f.K, b);
  else
    std::fill_n(b, f.K, 0.0f);

  const int64_t pixels = volume(self.problem.output);
  const bool rows_out = self.layouts.y == Layout::kNHWC;
  const Epilogue epilogue{.type = self.type,
                          .activation = self.activation,
                          .bias = b,
                          .residual = residual,
                          .residual_slope = self.residual_slope,
                          .y = y,
                          .channel_step = rows_out ? 1 : pixels};
  const RowSpace space{.problem = &self.problem,
                       .plan = &self.plan,
                       .x = x_rows,
                       .zeros = zeros,
                       .x_pitch = self.rows.pitch(),
                       .y_pixel_step = rows_out ? f.K : 1,
                       .y_image_step = f.K * pixels,
                       .join_taps = self.packing.kind == Packing::kWide && f.groups == 1 && self.rows.pitch() == f.C};
  const Schedule& s = self.tasks;
  parallel_for(int64_t(self.blocks.size()) * s.panel_blocks, [&](int64_t i) {
    thread_local BlockRows rows;  // kept from run to run: a steady run allocates nothing
    rows.clear();
    const Block& block = self.blocks[i / s.panel_blocks];
    for (int64_t t = block.first; t < block.first + block.tiles; ++t) append_rows(space, self.plan.tiles[t], rows);
    const int64_t begin = i % s.panel_blocks * s.panels, end = std::min(self.packing.panels, begin + s.panels);
    for (int64_t p = begin; p < end; ++p) self.multiply(rows, self.panel(p, filter.data()), epilogue);
  });
}

}  // namespace cks::cpu

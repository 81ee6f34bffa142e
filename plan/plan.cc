#include "plan/plan.h"

#include <algorithm>
#include <limits>
#include <map>

namespace cks {
namespace {

int32_t filter_index(const Problem& p, int32_t t, int32_t r, int32_t s) {
  return int32_t((t * p.filter.extent[1] + r) * p.filter.extent[2] + s);
}

// Steps through a grid, last axis fastest; past the end, at[0] == grid[0].
void advance(Index3& at, const Index3& grid) {
  if (++at[2] == grid[2]) at[2] = 0, ++at[1];
  if (at[1] == grid[1]) at[1] = 0, ++at[0];
}

// One axis of a phase. Phases are the product of their axes, and so are tap lists and tiles: everything is decided per
// axis.
struct AxisPhase {
  struct AxisTap {
    int32_t filter, offset;  // filter index on this axis; input = q * in_step + offset
    int32_t begin, end;      // the q in [0, count) for which that input exists
    bool operator==(const AxisTap& o) const { return filter == o.filter && offset == o.offset; }
  };
  int32_t first, step, count, in_step;
  std::vector<AxisTap> taps;  // by rising offset

  void add(int64_t filter, int64_t offset, int64_t input) {
    const int64_t begin = std::clamp<int64_t>(ceil_div(-offset, in_step), 0, count);
    const int64_t end = std::clamp<int64_t>(ceil_div(input - offset, in_step), begin, count);
    taps.push_back({int32_t(filter), int32_t(offset), int32_t(begin), int32_t(end)});
  }
  int live_taps(int32_t q0, int32_t q1) const {
    return int(
        std::ranges::count_if(taps, [&](const AxisTap& t) { return std::max(t.begin, q0) < std::min(t.end, q1); }));
  }
};

// y[q * 1] of a convolution; y[p + q * stride] of phase p of a transposed one, where only the taps t with
// (p + pad - t * dilation) % stride == 0 meet an input, at q + (p + pad - t * dilation) / stride.
std::vector<AxisPhase> axis_phases(const Problem& p, int axis) {
  const int64_t F = p.filter.extent[axis], s = p.stride[axis], d = p.dilation[axis], pad = p.pad[axis];
  const int64_t I = p.input[axis], O = p.output[axis];
  std::vector<AxisPhase> phases;
  if (p.filter.op == Operator::kConv) {
    AxisPhase a{.first = 0, .step = 1, .count = int32_t(O), .in_step = int32_t(s), .taps = {}};
    for (int64_t t = 0; t < F; ++t) a.add(t, t * d - pad, I);
    phases.push_back(std::move(a));
    return phases;
  }
  for (int64_t first = 0; first < std::min(s, O); ++first) {
    AxisPhase a{.first = int32_t(first),
                .step = int32_t(s),
                .count = int32_t(ceil_div(O - first, s)),
                .in_step = 1,
                .taps = {}};
    for (int64_t t = F - 1; t >= 0; --t) {
      const int64_t distance = first + pad - t * d;
      if (distance % s == 0) a.add(t, distance / s, I);
    }
    phases.push_back(std::move(a));
  }
  return phases;
}

using Phases3 = std::array<std::vector<AxisPhase>, 3>;
Phases3 all_axis_phases(const Problem& p) { return {axis_phases(p, 0), axis_phases(p, 1), axis_phases(p, 2)}; }

int64_t live_pairs(const Phases3& axes, int64_t images) {
  int64_t live = images;
  for (const std::vector<AxisPhase>& axis : axes) {
    int64_t pairs = 0;
    for (const AxisPhase& a : axis)
      for (const auto& t : a.taps) pairs += t.end - t.begin;
    live *= pairs;
  }
  return live;
}

// Tiles of `extent` pixels along one axis, over all its phases: how many, and how many live taps in all.
struct AxisCost {
  double tiles = 0, taps = 0;
};

AxisCost axis_cost(const std::vector<AxisPhase>& phases, int32_t extent) {
  AxisCost cost;
  for (const AxisPhase& a : phases) {
    const int32_t tiles = int32_t(ceil_div(a.count, extent));
    cost.tiles += tiles;
    // Most tiles of a long axis lie where every tap is live: only the others are looked at.
    int32_t all_begin = 0, all_end = a.count;
    for (const auto& t : a.taps) all_begin = std::max(all_begin, t.begin), all_end = std::min(all_end, t.end);
    const int32_t full_begin = all_begin < all_end ? all_begin / extent : 0;
    const int32_t full_end = all_begin < all_end ? (all_end - 1) / extent + 1 : 0;
    cost.taps += double(full_end - full_begin) * double(a.taps.size());
    for (int32_t i = 0; i < tiles; ++i) {
      if (i == full_begin && full_end > full_begin) i = full_end;
      if (i < tiles) cost.taps += a.live_taps(i * extent, std::min(a.count, (i + 1) * extent));
    }
  }
  return cost;
}

// The live taps of every tile along one axis; tiles with equal lists share one.
struct AxisTiles {
  std::vector<std::vector<AxisPhase::AxisTap>> lists;
  std::vector<int32_t> list_of_tile;
};

AxisTiles axis_tiles(const AxisPhase& a, int32_t extent) {
  AxisTiles r;
  for (int32_t q0 = 0; q0 < a.count; q0 += extent) {
    const int32_t q1 = std::min(a.count, q0 + extent);
    std::vector<AxisPhase::AxisTap> live;
    std::ranges::copy_if(a.taps, std::back_inserter(live),
                         [&](const auto& t) { return std::max(t.begin, q0) < std::min(t.end, q1); });
    // Lists change only near the borders: the last few are enough to find an equal one.
    int32_t id = int32_t(r.lists.size()) - 1;
    while (id >= 0 && r.lists[id] != live) --id;
    if (id < 0) {
      id = int32_t(r.lists.size());
      r.lists.push_back(std::move(live));
    }
    r.list_of_tile.push_back(id);
  }
  return r;
}

// Appends one phase, the product of its three axes, with its taps and tiles.
void add_phase(Plan& plan, const Problem& p, const std::array<const AxisPhase*, 3>& axes) {
  const int32_t index = int32_t(plan.phases.size());
  Phase& phase = plan.phases.emplace_back();
  std::array<AxisTiles, 3> tiles;
  for (int i = 0; i < 3; ++i) {
    const AxisPhase& a = *axes[i];
    phase.first[i] = a.first, phase.step[i] = a.step, phase.count[i] = a.count, phase.in_step[i] = a.in_step;
    tiles[i] = axis_tiles(a, plan.box.extent[i]);
  }

  struct Range {
    int32_t first, count;
  };
  std::map<Index3, Range> ranges;  // which list on each axis -> where the product of the three lies in plan.taps
  const auto taps_of = [&](const Index3& lists) {
    const auto [at, fresh] = ranges.try_emplace(lists);
    if (fresh) {
      at->second.first = int32_t(plan.taps.size());
      for (const auto& d : tiles[0].lists[lists[0]])
        for (const auto& h : tiles[1].lists[lists[1]])
          for (const auto& w : tiles[2].lists[lists[2]])
            plan.taps.push_back({{d.offset, h.offset, w.offset}, filter_index(p, d.filter, h.filter, w.filter)});
      at->second.count = int32_t(plan.taps.size()) - at->second.first;
    }
    return at->second;
  };

  const Index3 grid{int32_t(tiles[0].list_of_tile.size()), int32_t(tiles[1].list_of_tile.size()),
                    int32_t(tiles[2].list_of_tile.size())};
  for (int64_t n = 0; n < p.N; n += plan.box.n) {
    for (Index3 at{0, 0, 0}; at[0] < grid[0]; advance(at, grid)) {
      Tile tile{.phase = index,
                .n = int32_t(n),
                .origin = {},
                .extent_n = int32_t(std::min<int64_t>(plan.box.n, p.N - n)),
                .extent = {},
                .first_tap = 0,
                .num_taps = 0};
      Index3 lists;
      for (int i = 0; i < 3; ++i) {
        tile.origin[i] = at[i] * plan.box.extent[i];
        tile.extent[i] = std::min(plan.box.extent[i], axes[i]->count - tile.origin[i]);
        lists[i] = tiles[i].list_of_tile[at[i]];
      }
      const Range range = taps_of(lists);
      tile.first_tap = range.first, tile.num_taps = range.count;
      plan.tiles.push_back(tile);
      plan.executed_pixel_taps += plan.box.pixels() * range.count;
    }
  }
}

}  // namespace

Box choose_box(const Problem& p, int rows, double tile_overhead, const Index3& limit) {
  const Phases3 phases = all_axis_phases(p);
  std::array<std::vector<AxisCost>, 3> costs;  // [axis][extent], filled where first needed
  std::array<int32_t, 3> longest{1, 1, 1};
  for (int i = 0; i < 3; ++i) {
    for (const AxisPhase& a : phases[i]) longest[i] = std::max(longest[i], a.count);
    longest[i] = std::min({longest[i], rows, limit[i]});
    costs[i].resize(longest[i] + 1);
  }
  const auto cost = [&](int axis, int32_t extent) -> const AxisCost& {
    AxisCost& c = costs[axis][extent];
    if (c.tiles == 0) c = axis_cost(phases[axis], extent);
    return c;
  };
  Box best;
  double least = std::numeric_limits<double>::infinity();
  for (int32_t w = 1; w <= longest[2]; ++w) {
    for (int32_t h = 1; h <= std::min(longest[1], rows / w); ++h) {
      for (int32_t d = 1; d <= std::min(longest[0], rows / (w * h)); ++d) {
        const int32_t n = int32_t(std::clamp<int64_t>(rows / (w * h * d), 1, std::max<int64_t>(p.N, 1)));
        const AxisCost &cd = cost(0, d), &ch = cost(1, h), &cw = cost(2, w);
        const double images = double(ceil_div(p.N, n));
        const double total = images * (cd.taps * ch.taps * cw.taps + tile_overhead * cd.tiles * ch.tiles * cw.tiles);
        // Among equals the widest: its pixels lie next to each other in memory.
        if (total < least || (total == least && w > best.extent[2])) {
          least = total;
          best = {n, {d, h, w}};
        }
      }
    }
  }
  return best;
}

Plan make_plan(const Problem& p, const Box& box) {
  Plan plan;
  plan.box = box;
  const Phases3 axes = all_axis_phases(p);
  plan.live_pixel_taps = live_pairs(axes, p.N);
  for (const AxisPhase& d : axes[0])
    for (const AxisPhase& h : axes[1])
      for (const AxisPhase& w : axes[2]) add_phase(plan, p, {&d, &h, &w});
  std::ranges::stable_sort(plan.tiles, std::greater<>{}, &Tile::num_taps);
  return plan;
}

LiveRange live_range(const Problem& p, const Phase& phase, const Tap& tap) {
  LiveRange r;
  for (int i = 0; i < 3; ++i) {
    AxisPhase a{.first = 0, .step = 1, .count = phase.count[i], .in_step = phase.in_step[i], .taps = {}};
    a.add(0, tap.offset[i], p.input[i]);
    r.begin[i] = a.taps[0].begin;
    r.end[i] = a.taps[0].end;
  }
  return r;
}

int64_t dense_pixel_taps(const Problem& p) { return p.N * volume(p.output) * p.filter.taps(); }

int64_t live_pixel_taps(const Problem& p) { return live_pairs(all_axis_phases(p), p.N); }

std::vector<GradientTap> weight_gradient_taps(const Problem& p) {
  const Phases3 axes = all_axis_phases(p);
  std::vector<GradientTap> taps;
  for (const auto& d : axes[0][0].taps)
    for (const auto& h : axes[1][0].taps)
      for (const auto& w : axes[2][0].taps)
        taps.push_back({{{d.offset, h.offset, w.offset}, int32_t(taps.size())},
                        {{d.begin, h.begin, w.begin}, {d.end, h.end, w.end}}});
  return taps;
}

}  // namespace cks

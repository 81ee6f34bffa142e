#include "ops_cuda/hopper/patch.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {
namespace {

constexpr int kGroup = 8;             // rows that are neighbours
constexpr int kBlockGroups = 8;       // groups of a row block
constexpr int64_t kMostPixels = 640;  // of a patch, 80 KB of it in shared memory
constexpr double kPixelCost = 0.5;    // of loading a pixel of a patch, against multiplying one by a tap

// Where the tile's groups of rows lie in the patch; none where they are not as the matrix instruction reads them.
std::optional<Patch> lay_out(const Box& tile, const Box& patch) {
  if (tile.extent[2] % kGroup != 0) return {};
  std::vector<int32_t> groups;
  for (int32_t n = 0; n < tile.n; ++n)
    for (int32_t d = 0; d < tile.extent[0]; ++d)
      for (int32_t h = 0; h < tile.extent[1]; ++h)
        for (int32_t w = 0; w < tile.extent[2]; w += kGroup)
          groups.push_back(((n * patch.extent[0] + d) * patch.extent[1] + h) * patch.extent[2] + w);
  Patch r{.box = patch, .group_pitch = groups[1] - groups[0], .row_blocks = {}};
  for (size_t i = 0; i < groups.size(); ++i) {
    if (i % kBlockGroups == 0) {
      r.row_blocks[i / kBlockGroups] = groups[i];
    } else if (groups[i] - groups[i - 1] != r.group_pitch) {
      return {};
    }
  }
  return r;
}

int32_t floor_div(int32_t a, int64_t b) { return int32_t(a >= 0 ? a / b : -ceil_div(-int64_t(a), b)); }

// Of input pixels a stride apart, those that a tap reads: which, and how far along.
struct Lattice {
  Index3 first, place;
  Lattice(const Tap& tap, const Dims& step) {
    for (int i = 0; i < 3; ++i)
      place[i] = floor_div(tap.offset[i], step[i]), first[i] = tap.offset[i] - place[i] * int32_t(step[i]);
  }
};

std::optional<int32_t> pack_corner(const Index3& corner) {
  int32_t packed = 0;
  for (const int32_t c : corner) {
    if (std::abs(c) >= 1 << (kCornerBits - 1)) return {};
    packed = packed << kCornerBits | (c & ((1 << kCornerBits) - 1));
  }
  return packed;
}

// Makes the plan's taps relative to the patches that they read, of pixels a `step` apart. None where a patch would be
// too large.
std::optional<PatchPlan> with_patches(Plan plan, const Dims& step) {
  struct Reach {
    Index3 low, high;
    int32_t taps = 0;
  };
  using Reaches = std::map<Index3, Reach>;  // of each lattice
  std::map<int32_t, Reaches> lists;         // by their first tap
  Box patch = plan.box;
  int32_t most_taps = 0;
  for (const Tile& t : plan.tiles) {
    if (t.num_taps == 0) continue;
    const auto [list, fresh] = lists.try_emplace(t.first_tap);
    if (!fresh) continue;
    for (int32_t tap = t.first_tap; tap < t.first_tap + t.num_taps; ++tap) {
      const Lattice at(plan.taps[tap], step);
      Reach& r = list->second.try_emplace(at.first, Reach{at.place, at.place}).first->second;
      most_taps = std::max(most_taps, ++r.taps);
      for (int i = 0; i < 3; ++i) {
        r.low[i] = std::min(r.low[i], at.place[i]), r.high[i] = std::max(r.high[i], at.place[i]);
        patch.extent[i] = std::max(patch.extent[i], plan.box.extent[i] + r.high[i] - r.low[i]);
      }
    }
  }
  if (most_taps < 2 || patch.pixels() > kMostPixels) return {};
  for (int i = 0; i < 3; ++i) {
    if (patch.extent[i] * step[i] > kMaxTensorBox) return {};
  }
  const std::optional<Patch> laid_out = lay_out(plan.box, patch);
  if (!laid_out) return {};

  std::vector<Tap> taps = plan.taps;
  for (const auto& [first_tap, reaches] : lists) {
    int32_t to = first_tap;
    for (const auto& [first, reach] : reaches) {
      Index3 corner;
      for (int i = 0; i < 3; ++i) corner[i] = first[i] + reach.low[i] * int32_t(step[i]);
      const std::optional<int32_t> packed = pack_corner(corner);
      if (!packed) return {};
      for (int32_t from = first_tap, left = reach.taps; left > 0; ++from) {
        const Lattice at(plan.taps[from], step);
        if (at.first != first) continue;
        Index3 l;
        for (int i = 0; i < 3; ++i) l[i] = at.place[i] - reach.low[i];
        const int32_t pixel = (l[0] * patch.extent[1] + l[1]) * patch.extent[2] + l[2];
        const bool begins = left-- == reach.taps;
        const int32_t sharing = begins ? reach.taps : 0;
        taps[to++] = {{sharing, begins ? *packed : 0, sharing << kPixelBits | pixel}, plan.taps[from].filter};
      }
    }
  }
  plan.taps = std::move(taps);
  return PatchPlan{std::move(plan), *laid_out};
}

}  // namespace

int patches_of(const Plan& plan, const Tile& t) {
  const auto first = plan.taps.begin() + t.first_tap;
  return int(std::count_if(first, first + t.num_taps, [](const Tap& tap) { return tap.offset[0] > 0; }));
}

std::optional<PatchPlan> plan_patches(const Problem& p, int rows, double tile_overhead) {
  const bool conv = p.filter.op == Operator::kConv;
  const Dims step = conv ? p.stride : Dims{1, 1, 1};  // of the input, or of the output
  std::optional<PatchPlan> best;
  double least = 0;
  const auto consider = [&](const Box& box) {
    for (int i = 0; i < 3; ++i) {
      if (box.extent[i] * (conv ? 1 : p.stride[i]) > kMaxTensorBox) return;  // the store's box
    }
    std::optional<PatchPlan> plan = with_patches(make_plan(p, box), step);
    if (!plan) return;
    const std::vector<Tile>& tiles = plan->plan.tiles;
    int64_t patches = 0;
    for (const Tile& t : tiles) patches += patches_of(plan->plan, t);
    const double cost = double(plan->plan.executed_pixel_taps) + tile_overhead * double(tiles.size()) * rows +
                        kPixelCost * double(patches * plan->patch.box.pixels());
    if (!best || cost < least) best = std::move(plan), least = cost;
  };
  // Lines, and boxes that are a group wide.
  for (int32_t w = 2 * kGroup; w <= rows; w *= 2) {
    if (p.output[0] == 1 && p.output[1] == 1) consider({rows / w, {1, 1, w}});
  }
  for (int32_t h = 1; h * kGroup <= rows; h *= 2)
    for (int32_t d = 1; d * h * kGroup <= rows; d *= 2) {
      const Box box{rows / (d * h * kGroup), {d, h, kGroup}};
      const bool sensible = box.n < 2 * p.N && d < 2 * p.output[0] && h < 2 * p.output[1];
      if (sensible) consider(box);
    }
  return best;
}

}  // namespace cks::cuda::hopper

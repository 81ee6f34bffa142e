#include "ops_cuda/hopper/patch.h"

#include <algorithm>
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

// Makes the plan's taps relative to their tile's patch. None where a patch would be too large.
std::optional<PatchPlan> with_patches(Plan plan) {
  struct Reach {
    Index3 low, high;
  };
  std::map<int32_t, Reach> reaches;  // by the first tap of a list
  Box patch = plan.box;
  int32_t most_taps = 0;
  for (const Tile& t : plan.tiles) {
    most_taps = std::max(most_taps, t.num_taps);
    if (t.num_taps == 0) continue;
    const auto [at, fresh] = reaches.try_emplace(t.first_tap);
    if (!fresh) continue;
    Reach& r = at->second = {plan.taps[t.first_tap].offset, plan.taps[t.first_tap].offset};
    for (int i = 0; i < 3; ++i) {
      for (int32_t tap = t.first_tap; tap < t.first_tap + t.num_taps; ++tap) {
        r.low[i] = std::min(r.low[i], plan.taps[tap].offset[i]);
        r.high[i] = std::max(r.high[i], plan.taps[tap].offset[i]);
      }
      patch.extent[i] = std::max(patch.extent[i], plan.box.extent[i] + r.high[i] - r.low[i]);
    }
  }
  if (most_taps < 2 || patch.pixels() > kMostPixels || std::ranges::max(patch.extent) > kMaxTensorBox) return {};
  const std::optional<Patch> laid_out = lay_out(plan.box, patch);
  if (!laid_out) return {};

  PatchPlan r{.plan = {}, .patch = *laid_out, .corner = {}};
  std::vector<Tap> taps = plan.taps;
  for (const Tile& t : plan.tiles) {
    const Index3 low = t.num_taps > 0 ? reaches.at(t.first_tap).low : Index3{};
    r.corner.push_back(low);
    for (int32_t i = t.first_tap; i < t.first_tap + t.num_taps; ++i) {
      const Index3& o = plan.taps[i].offset;
      const int32_t pixel = ((o[0] - low[0]) * patch.extent[1] + o[1] - low[1]) * patch.extent[2] + o[2] - low[2];
      taps[i].offset = {0, 0, pixel};
    }
  }
  r.plan = std::move(plan), r.plan.taps = std::move(taps);
  return r;
}

}  // namespace

std::optional<PatchPlan> plan_patches(const Problem& p, int rows, double tile_overhead) {
  if (p.filter.op == Operator::kConv && std::ranges::max(p.stride) > 1) return {};
  std::optional<PatchPlan> best;
  double least = 0;
  const auto consider = [&](const Box& box) {
    for (int i = 0; i < 3; ++i) {
      if (box.extent[i] * p.stride[i] > kMaxTensorBox) return;  // the store's box
    }
    std::optional<PatchPlan> plan = with_patches(make_plan(p, box));
    if (!plan) return;
    const double tiles = double(plan->plan.tiles.size());
    const double cost = double(plan->plan.executed_pixel_taps) + tile_overhead * tiles * rows +
                        kPixelCost * tiles * double(plan->patch.box.pixels());
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

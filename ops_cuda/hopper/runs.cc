#include "ops_cuda/hopper/runs.h"

#include <algorithm>
#include <map>

#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {
namespace {

bool im2col_reaches(const Problem& p) {
  if (p.filter.op != Operator::kConv || p.input[0] != 1 || p.output[0] != 1 || p.filter.extent[0] != 1) return false;
  if (p.N * volume(p.output) > INT32_MAX) return false;
  const RunCorners corners = run_corners(p);
  for (int i = 0; i < 2; ++i) {
    const int axis = i + 1;
    if (corners.lower[i] < -128 || corners.upper[i] < -128 || corners.upper[i] > 127) return false;
    if ((p.filter.extent[axis] - 1) * p.dilation[axis] > kMaxIm2colOffset || p.stride[axis] > kMaxElementStride)
      return false;
  }
  return true;
}

bool overlap(int64_t begin, int64_t end, int64_t other_begin, int64_t other_end) {
  return std::max(begin, other_begin) < std::min(end, other_end);
}

}  // namespace

RunCorners run_corners(const Problem& p) {
  RunCorners r;
  for (int i = 0; i < 2; ++i) {
    const int axis = i + 1;
    r.lower[i] = int32_t(-p.pad[axis]);
    r.upper[i] = int32_t(r.lower[i] + (p.output[axis] - 1) * p.stride[axis] - (p.input[axis] - 1));
  }
  return r;
}

std::optional<RunsPlan> plan_runs(const Problem& p, int rows) {
  if (!im2col_reaches(p)) return {};
  const std::vector<GradientTap> taps = weight_gradient_taps(p);
  const int64_t P = p.output[1], Q = p.output[2], pixels = p.N * P * Q;
  RunsPlan r;
  Plan& plan = r.plan;
  plan.box = {1, {1, 1, rows}};
  plan.phases = {{.first = {0, 0, 0}, .step = {1, 1, 1}, .count = {1, 1, int32_t(pixels)}, .in_step = {0, 0, 0}}};
  std::map<std::vector<bool>, int32_t> lists;  // the first tap of a list, by what is in it
  for (int64_t first = 0; first < pixels; first += rows) {
    const int64_t end = std::min(first + rows, pixels);
    std::vector<bool> live(taps.size());
    for (int64_t row = first / Q; row * Q < end; ++row) {
      const int64_t h = row % P, begin_w = std::max(first - row * Q, int64_t(0)), end_w = std::min(end - row * Q, Q);
      for (size_t i = 0; i < taps.size(); ++i) {
        const LiveRange& range = taps[i].live;
        live[i] = live[i] || (overlap(h, h + 1, range.begin[1], range.end[1]) &&
                              overlap(begin_w, end_w, range.begin[2], range.end[2]) && range.begin[0] < range.end[0]);
      }
    }
    const auto [at, fresh] = lists.try_emplace(live, int32_t(plan.taps.size()));
    const int32_t count = int32_t(std::ranges::count(live, true));
    if (fresh) {
      for (size_t i = 0; i < taps.size(); ++i) {
        const Index3& offset = taps[i].tap.offset;
        if (!live[i]) continue;
        plan.taps.push_back({{0, int32_t(offset[1] + p.pad[1]), int32_t(offset[2] + p.pad[2])}, taps[i].tap.filter});
      }
    }
    plan.tiles.push_back({.phase = 0,
                          .n = 0,
                          .origin = {0, 0, int32_t(first)},
                          .extent_n = 1,
                          .extent = {1, 1, int32_t(end - first)},
                          .first_tap = at->second,
                          .num_taps = count});
    plan.executed_pixel_taps += int64_t(rows) * count;
  }
  std::ranges::stable_sort(plan.tiles, std::greater<>{}, &Tile::num_taps);
  for (const Tile& t : plan.tiles) {
    const int64_t first = t.origin[2];
    r.start.push_back({int32_t(first / (P * Q)), int32_t(first / Q % P * p.stride[1] - p.pad[1]),
                       int32_t(first % Q * p.stride[2] - p.pad[2])});
  }
  return r;
}

}  // namespace cks::cuda::hopper

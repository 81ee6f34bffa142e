#include "ops_cuda/few_outputs_plan.h"

#include <algorithm>
#include <numeric>

namespace cks::cuda {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return -ceil_div(-a, b); }

// One axis of a tile of `box` outputs; of a transposed convolution `box` is a multiple of the stride, so that all tiles
// are alike.
struct Axis {
  int64_t patch, first, step, tap_step, pixel_step;
  std::vector<Reach> reaches;
};

Axis axis_of(const Problem& p, int axis, int64_t box) {
  const int64_t s = p.stride[axis], d = p.dilation[axis], pad = p.pad[axis], taps = p.filter.extent[axis];
  Axis a;
  if (p.filter.op == Operator::kConv) {
    a.first = -pad, a.step = box * s, a.patch = (box - 1) * s + (taps - 1) * d + 1;
    a.tap_step = 1, a.pixel_step = d;
    for (int64_t o = 0; o < box; ++o) a.reaches.push_back({0, int16_t(taps), int32_t(o * s)});
    return a;
  }
  const int64_t common = std::gcd(s, d);
  a.first = ceil_div(pad - (taps - 1) * d, s), a.step = box / s;
  a.patch = std::max<int64_t>(1, floor_div(box - 1 + pad, s) - a.first + 1);
  a.tap_step = s / common, a.pixel_step = -d / common;
  for (int64_t o = 0; o < box; ++o) {
    int64_t tap = 0;
    while (tap < taps && (o + pad - tap * d) % s != 0) ++tap;
    const int64_t pixel = tap < taps ? (o + pad - tap * d) / s - a.first : 0;
    a.reaches.push_back({int16_t(tap), int16_t(ceil_div(taps - tap, a.tap_step)), int32_t(pixel)});
  }
  return a;
}

// Everything that depends on the box.
void cut(const Problem& p, const std::array<int64_t, 3>& box, FewOutputsPlan& plan) {
  const Axis d = axis_of(p, 0, box[0]), h = axis_of(p, 1, box[1]), w = axis_of(p, 2, box[2]);
  const auto three = [&](int64_t Axis::* which) {
    return Int3{int32_t(d.*which), int32_t(h.*which), int32_t(w.*which)};
  };
  plan.box = to_int3(Dims(box));
  plan.patch = three(&Axis::patch), plan.patch_first = three(&Axis::first), plan.patch_step = three(&Axis::step);
  plan.tap_step = three(&Axis::tap_step), plan.pixel_step = three(&Axis::pixel_step);
  plan.reaches = d.reaches;
  plan.reaches.insert(plan.reaches.end(), h.reaches.begin(), h.reaches.end());
  plan.reaches.insert(plan.reaches.end(), w.reaches.begin(), w.reaches.end());
}

}  // namespace

std::optional<FewOutputsPlan> plan_few_outputs(const Problem& p, DataType type, int multiprocessors, int shared_bytes) {
  const Filter& f = p.filter;
  if (f.groups > 1 || f.K > kFewOutputsColumns || f.C == 0) return {};
  for (const int64_t extent : f.extent)
    if (extent > INT16_MAX) return {};
  FewOutputsPlan plan;
  plan.channel_blocks = int32_t(ceil_div(f.C * int64_t(size_of(type)), 64));
  plan.filter_pitch = 16 * (plan.channel_blocks | 1);  // an odd number of blocks: columns 16 banks apart
  const int64_t columns = kFewOutputsColumns * plan.filter_pitch * 4 <= shared_bytes / 2 ? kFewOutputsColumns : 16;
  const int64_t turn_taps = std::min(f.taps(), columns / f.K);
  if (turn_taps == 0) return {};
  plan.columns = turn_taps * f.K <= 16 ? 16 : kFewOutputsColumns;
  plan.turn_taps = int32_t(turn_taps), plan.turns = int32_t(ceil_div(f.taps(), turn_taps));
  plan.product_pitch = plan.columns + 1;
  if (plan.filter_bytes() > shared_bytes / 2) return {};

  // The box that takes the least time: a tile's rows and its own work, times the tiles of the busiest multiprocessor.
  std::array<int64_t, 3> unit, best{};
  for (int axis = 0; axis < 3; ++axis) unit[axis] = f.op == Operator::kConvTranspose ? p.stride[axis] : 1;
  double best_time = 0;
  for (int64_t w = unit[2]; w < 2 * std::max(p.output[2], unit[2]) && w <= 1024; w *= 2)
    for (int64_t h = unit[1]; h < 2 * std::max(p.output[1], unit[1]) && h <= 1024; h *= 2)
      for (int64_t d = unit[0]; d < 2 * std::max(p.output[0], unit[0]) && d <= 1024; d *= 2) {
        const int64_t patch = axis_of(p, 0, d).patch * axis_of(p, 1, h).patch * axis_of(p, 2, w).patch;
        if (patch * plan.product_pitch * 4 > shared_bytes || d * h * w > 4096) break;
        FewOutputsPlan tried = plan;
        cut(p, {d, h, w}, tried);
        if (tried.shared_bytes(f.K) > shared_bytes) break;
        const int64_t tiles = p.N * ceil_div(p.output[0], d) * ceil_div(p.output[1], h) * ceil_div(p.output[2], w);
        const double time = double(ceil_div(tiles, 2 * multiprocessors)) * double(128 + tried.product_rows());
        if (best_time == 0 || time <= best_time) best = {d, h, w}, best_time = time;
      }
  if (best_time == 0) return {};
  cut(p, best, plan);
  return plan;
}

}  // namespace cks::cuda

#include "ops_cuda/few_outputs_plan.h"

#include <algorithm>
#include <numeric>

namespace cks::cuda {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return -ceil_div(-a, b); }

// One axis of a tile of `box` outputs; of a transposed convolution `box` is a multiple of the stride, so that all tiles
// are alike.
struct Axis {
  int64_t box, patch, first, step, tap_step, pixel_step;
};

Axis axis_of(const Problem& p, int axis, int64_t box) {
  const int64_t s = p.stride[axis], d = p.dilation[axis], pad = p.pad[axis], span = (p.filter.extent[axis] - 1) * d;
  if (p.filter.op == Operator::kConv) return {box, (box - 1) * s + span + 1, -pad, box * s, 1, d};
  const int64_t first = ceil_div(pad - span, s), last = floor_div(box - 1 + pad, s), common = std::gcd(s, d);
  return {box, std::max<int64_t>(1, last - first + 1), first, box / s, s / common, -d / common};
}

void add_reaches(const Problem& p, int axis, const Axis& a, std::vector<Reach>& reaches) {
  const int64_t s = p.stride[axis], d = p.dilation[axis], pad = p.pad[axis], taps = p.filter.extent[axis];
  for (int64_t o = 0; o < a.box; ++o) {
    if (p.filter.op == Operator::kConv) {
      reaches.push_back({0, int16_t(taps), int32_t(o * s)});
      continue;
    }
    int64_t tap = 0;
    while (tap < taps && (o + pad - tap * d) % s != 0) ++tap;
    const int64_t pixel = tap < taps ? (o + pad - tap * d) / s - a.first : 0;
    reaches.push_back({int16_t(tap), int16_t(ceil_div(taps - tap, a.tap_step)), int32_t(pixel)});
  }
}

// All but the reaches that depends on the box.
void cut(const std::array<Axis, 3>& axes, FewOutputsPlan& plan) {
  const auto three = [&](int64_t Axis::* which) {
    return Int3{int32_t(axes[0].*which), int32_t(axes[1].*which), int32_t(axes[2].*which)};
  };
  plan.box = three(&Axis::box), plan.patch = three(&Axis::patch);
  plan.patch_first = three(&Axis::first), plan.patch_step = three(&Axis::step);
  plan.tap_step = three(&Axis::tap_step), plan.pixel_step = three(&Axis::pixel_step);
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
  const int64_t line = f.extent[2] * f.K, lines = f.extent[0] * f.extent[1];
  const int64_t turn_lines = std::min(lines, columns / line);
  if (turn_lines == 0) return {};
  plan.columns = turn_lines * line <= 16 ? 16 : turn_lines * line <= 24 ? 24 : kFewOutputsColumns;
  plan.turn_lines = int32_t(turn_lines), plan.turns = int32_t(ceil_div(lines, turn_lines));
  plan.product_pitch = plan.columns + 1;
  if (plan.filter_bytes() > shared_bytes / 2) return {};

  // The box that takes the least time: a tile's rows and its own work, times the tiles of the busiest multiprocessor.
  std::array<int64_t, 3> unit;
  for (int axis = 0; axis < 3; ++axis) unit[axis] = f.op == Operator::kConvTranspose ? p.stride[axis] : 1;
  const auto sizes = [&](int axis) {  // that are worth trying
    std::vector<Axis> sizes;
    for (int64_t box = unit[axis]; box < 2 * std::max(p.output[axis], unit[axis]) && box <= 1024; box *= 2)
      sizes.push_back(axis_of(p, axis, box));
    return sizes;
  };
  std::array<Axis, 3> best{};
  double best_time = 0;
  for (const Axis& w : sizes(2))
    for (const Axis& h : sizes(1))
      for (const Axis& d : sizes(0)) {
        if (d.patch * h.patch * w.patch * plan.product_pitch * 4 > shared_bytes || d.box * h.box * w.box > 4096) break;
        cut({d, h, w}, plan);
        if (plan.shared_bytes(f.K) > shared_bytes) break;
        const int64_t tiles =
            p.N * ceil_div(p.output[0], d.box) * ceil_div(p.output[1], h.box) * ceil_div(p.output[2], w.box);
        const double time = double(ceil_div(tiles, 2 * multiprocessors)) * double(128 + plan.product_rows());
        if (best_time == 0 || time <= best_time) best = {d, h, w}, best_time = time;
      }
  if (best_time == 0) return {};
  cut(best, plan);
  for (int axis = 0; axis < 3; ++axis) add_reaches(p, axis, best[size_t(axis)], plan.reaches);
  return plan;
}

}  // namespace cks::cuda

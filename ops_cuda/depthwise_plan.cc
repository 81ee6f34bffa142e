#include "ops_cuda/depthwise_plan.h"

#include <algorithm>

namespace cks::cuda {

std::optional<PlanePlan> plan_planes(const Problem& p, DataType type, int multiprocessors) {
  const Filter& f = p.filter;
  if (f.extent[0] > 1 || p.stride[0] > 1 || p.pad[0] != 0 || p.output[0] != p.input[0]) return {};
  const int64_t R = f.extent[1], S = f.extent[2];
  const Slide slide = slide_of(p.stride[1], p.dilation[1]);
  PlanePlan plan;
  plan.window_step = R > 1 && p.output[1] > 1 && slide.window_step <= 2 ? int(slide.window_step) : 0;
  plan.outputs = plan.window_step == 1 ? kPlaneOutputs<1> : kPlaneOutputs<2>;
  plan.filter_pitch = int(round_up(R, 4));
  // What a thread sums: along h, or (window step 0) along w.
  const int64_t unit_h = plan.window_step > 0 ? plan.outputs * slide.out_step : 1;
  const int64_t unit_w = plan.window_step > 0 ? 1 : plan.outputs;
  const int64_t planes = p.N * f.C * p.input[0], chunk = 16 / int64_t(size_of(type));
  // A part has a unit each way at least. What no shared memory holds would not fit the numbers below either.
  if (std::max(unit_h, R * p.dilation[1]) > kPlaneSharedBytes || S * p.dilation[2] > kPlaneSharedBytes) return {};

  const auto cut = [&](int64_t count, int64_t h, int64_t w) {
    plan.planes = int32_t(count);
    plan.box_h = int32_t(round_up(h, unit_h)), plan.box_w = int32_t(round_up(w, unit_w));
    plan.strips = int32_t(plan.window_step > 0 ? plan.box_h / plan.outputs : plan.box_h);
    plan.patch_h = int32_t((plan.box_h - 1) * p.stride[1] + (R - 1) * p.dilation[1] + 1);
    const int64_t patch_w = (plan.box_w - 1) * p.stride[2] + (S - 1) * p.dilation[2] + 1;
    // All parts begin at the same element of a chunk.
    plan.chunks = p.input[2] % chunk == 0 && (plan.box_w >= p.output[2] || plan.box_w * p.stride[2] % chunk == 0);
    plan.lead = plan.chunks ? int32_t(round_up(p.pad[2], chunk) - p.pad[2]) : 0;
    plan.patch_pitch = int32_t(round_up(plan.lead + patch_w, chunk));
  };
  const auto threads = [&] { return plan.planes * plan.strips * plan.box_w / int(unit_w); };
  const auto blocks = [&] {
    return ceil_div(planes, plan.planes) * ceil_div(p.output[1], plan.box_h) * ceil_div(p.output[2], plan.box_w);
  };
  const auto fits = [&] { return plan.shared_bytes(S) <= kPlaneSharedBytes; };
  // Parts of one plane first: of equal size, small enough, and enough of them; then several planes where one keeps few
  // threads busy.
  int64_t across = ceil_div(p.output[2], plan.window_step > 0 ? 128 : 1024), down = 1;
  const auto part = [&](int64_t count) { cut(count, ceil_div(p.output[1], down), ceil_div(p.output[2], across)); };
  part(1);
  while (!fits() || (threads() > kPlaneThreads && blocks() < 2 * multiprocessors)) {
    if (plan.box_h > unit_h)
      ++down;
    else if (plan.box_w > 32)
      ++across;
    else
      break;
    part(1);
  }
  if (!fits()) return {};
  for (int64_t count = 2; count <= planes; ++count) {
    const PlanePlan fewer = plan;
    part(count);
    if (fits() && threads() <= kPlaneThreads && blocks() >= 2 * multiprocessors) continue;
    plan = fewer;
    break;
  }
  return plan;
}

}  // namespace cks::cuda

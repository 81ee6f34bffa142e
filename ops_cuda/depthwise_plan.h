// How depthwise.cu cuts a depthwise convolution: pure functions, tested without a GPU.
//
// A thread sums a few outputs along one axis, which share what they read. With a dilation these are not neighbours but
// outputs `out_step` apart, whose inputs are then `dilation` apart like the taps: a window that slides by
// stride / gcd(stride, dilation) taps from one output to the next.
#pragma once
#include <algorithm>
#include <numeric>
#include <optional>

#include "ops_cuda/device_plan.h"

namespace cks::cuda {

struct Slide {
  int64_t out_step, window_step;
};
inline Slide slide_of(int64_t stride, int64_t dilation) {
  const int64_t common = std::gcd(stride, dilation);
  return {dilation / common, stride / common};
}
// Strips of `outputs` of an axis of that extent, the last ones perhaps past its end. Strip i begins at
// i / out_step * outputs * out_step + i % out_step.
inline int64_t strips_of(int64_t extent, int64_t outputs, int64_t out_step) {
  return ceil_div(extent, outputs * out_step) * out_step;
}
// Channels last: a thread takes a chunk of channels.
inline constexpr int kChunkOutputs = 4;  // of a thread, along w
// The kernel has window steps of 1 and 2.
inline bool depthwise_chunks_can(const Problem& p, DataType type) {
  return p.filter.C % (16 / int64_t(size_of(type))) == 0 && slide_of(p.stride[2], p.dilation[2]).window_step <= 2;
}

// Channels first: a thread block takes parts of some planes (image, channel and d) through shared memory, as floats.
// A single channel lies in memory the same way in both layouts.
inline bool by_planes(const Filter& f, Layouts layouts) { return layouts == Layout::kNCHW || f.C == 1; }
inline constexpr int kPlaneThreads = 256;
inline constexpr int kPlaneSharedBytes = 40 << 10;
struct PlanePlan {
  int window_step;  // along h, 1 or 2; 0: nothing is shared, the outputs of a thread lie apart along w
  int outputs;      // of a thread
  int32_t planes;   // of a thread block
  int32_t box_h, box_w, strips, patch_h;
  bool chunks;          // rows of the patch can be read by chunks of 16 bytes,
  int32_t lead;         // whose first begins so many elements before the patch
  int32_t patch_pitch;  // floats of a row
  int filter_pitch;     // floats of a filter column, of 4 taps each

  int64_t patch_floats() const { return int64_t(planes) * patch_h * patch_pitch; }
  int64_t shared_bytes(int64_t S) const { return (patch_floats() + planes * S * filter_pitch) * 4; }
};
template <int kStep>
inline constexpr int kPlaneOutputs = kStep == 1 ? 7 : 4;  // maps are often multiples of 7

// None where no patch fits shared memory, or where D is summed over.
std::optional<PlanePlan> plan_planes(const Problem&, DataType, int multiprocessors);

}  // namespace cks::cuda

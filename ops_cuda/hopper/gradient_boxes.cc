#include "ops_cuda/hopper/gradient_boxes.h"

#include <algorithm>

#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper::gradient {
namespace {

constexpr int kMaxPixels = 256, kFewPixels = 32;  // of a box: no more, and no fewer where there are more

// Extents worth trying along an axis: powers of two, and all of it.
std::vector<int32_t> extents_of(int32_t out, int32_t least) {
  std::vector<int32_t> extents;
  for (int64_t e = least; e < out && e <= kMaxPixels; e *= 2) extents.push_back(int32_t(e));
  extents.push_back(least == 1 ? out : int32_t(round_up(out, least)));
  if (least > 1 && extents.back() % 16 && extents.back() != 8) extents.back() = int32_t(round_up(out, 16));
  return extents;
}

}  // namespace

Frame make_frame(const Problem& p, const std::vector<GradientTap>& taps, bool images_inner) {
  Frame f;
  f.images_inner = images_inner;
  f.logical = images_inner ? std::array{kImages, 2, 1, 0} : std::array{2, 1, 0, kImages};
  for (int a = 0; a < 4; ++a) {
    const int axis = f.logical[a];
    f.out[a] = int32_t(axis == kImages ? p.N : p.output[axis]);
    f.in[a] = int32_t(axis == kImages ? p.N : p.input[axis]);
    f.stride[a] = int32_t(axis == kImages ? 1 : p.stride[axis]);
  }
  for (const GradientTap& g : taps) {
    FrameTap t{g.tap.filter, {}, {}, {}};
    bool live = p.N > 0;
    for (int a = 0; a < 4; ++a) {
      const int axis = f.logical[a];
      t.offset[a] = axis == kImages ? 0 : g.tap.offset[axis];
      t.begin[a] = axis == kImages ? 0 : g.live.begin[axis];
      t.end[a] = axis == kImages ? int32_t(p.N) : g.live.end[axis];
      live = live && t.begin[a] < t.end[a];
    }
    if (live) f.taps.push_back(t);
  }
  return f;
}

bool fits_tensor_map(const Axes& box, const Axes& step) {
  for (int a = 0; a < 4; ++a)
    if (box[a] * step[a] > kMaxTensorBox) return false;
  return true;
}

double k_steps(const FrameTap& t, const Axes& box) {
  const Axes step = step_of(box);
  double all = 1;
  for (int a = 0; a < 4; ++a) all *= double(pieces(t.begin[a], t.end[a], step[a]));
  return all;
}

uint32_t live_steps(const FrameTap& tap, const Axes& box, const Axes& at) {
  const Axes step = step_of(box);
  uint32_t mask = 0;
  int bit = 0;
  for_steps(box, [&](const Axes& first) {
    bool live = true;
    for (int a = 0; a < 4; ++a) {
      const int32_t from = at[a] + first[a];
      live = live && from < tap.end[a] && from + step[a] > tap.begin[a];
    }
    mask |= uint32_t(live) << bit++;
  });
  return mask;
}

std::vector<Axes> boxes_of(const Frame& f) {
  std::vector<Axes> boxes;
  int64_t most = 0;
  for (const int32_t e0 : extents_of(f.out[0], 8)) {
    for (int32_t e1 : extents_of(f.out[1], 1)) {
      if (e0 == 8) e1 = int32_t(round_up(e1, 2));
      for (const int32_t e2 : extents_of(f.out[2], 1)) {
        for (const int32_t e3 : extents_of(f.out[3], 1)) {
          const Axes box{e0, e1, e2, e3};
          if (pixels_of(box) > kMaxPixels || !fits_tensor_map(box, {1, 1, 1, 1})) continue;
          if (std::ranges::find(boxes, box) == boxes.end()) boxes.push_back(box);
          most = std::max(most, pixels_of(box));
        }
      }
    }
  }
  std::erase_if(boxes, [&](const Axes& box) { return pixels_of(box) < std::min<int64_t>(kFewPixels, most); });
  return boxes;
}

}  // namespace cks::cuda::hopper::gradient

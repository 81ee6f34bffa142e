// Boxes of pixels as they lie in shared memory: the problem with its axes in that order, the k-steps of a box, and the
// boxes worth trying.
#pragma once
#include "ops_cuda/hopper/gradient_schedule.h"

namespace cks::cuda::hopper::gradient {

inline constexpr int kImages = 3;  // the logical axes: 0, 1, 2 are d, h, w

// A live tap; axes in the order of the layout.
struct FrameTap {
  int32_t filter;
  Axes offset, begin, end;
};

// The problem with its axes in the order of shared memory.
struct Frame {
  bool images_inner;
  std::array<int, 4> logical;
  Axes out, in, stride;
  std::vector<FrameTap> taps;
};

Frame make_frame(const Problem&, const std::vector<GradientTap>&, bool images_inner);

// How many pixels along each axis one k-step has.
inline Axes step_of(const Axes& box) { return box[0] % kStepPixels == 0 ? Axes{16, 1, 1, 1} : Axes{8, 2, 1, 1}; }

// Pieces of `size` that a range meets.
inline int64_t pieces(int32_t begin, int32_t end, int32_t size) { return (end - 1) / size - begin / size + 1; }

inline int64_t pixels_of(const Axes& box) { return int64_t(box[0]) * box[1] * box[2] * box[3]; }

// Where k-steps lie in a box of which each axis has `pitch` pixels between neighbours.
inline Axes pitches(const Axes& box) { return {1, box[0], box[0] * box[1], box[0] * box[1] * box[2]}; }

inline int pixel_bytes(int channels) { return 2 * channels; }
inline int64_t aligned_box_bytes(const Axes& box, int channels) {
  return round_up(pixels_of(box) * pixel_bytes(channels), kStageAlignment);
}
// Of a box of pixels that lie `step` apart.
inline int64_t float_box_bytes(const Axes& box, int channels) {
  return round_up(pixels_of(box) * channels * int64_t(sizeof(float)), 128);
}
bool fits_tensor_map(const Axes& box, const Axes& step);

// Calls body(first pixel of each k-step in the box), in order.
template <class F>
void for_steps(const Axes& box, F body) {
  const Axes step = step_of(box);
  for (int32_t i = 0; i < box[3]; i += step[3])
    for (int32_t j = 0; j < box[2]; j += step[2])
      for (int32_t k = 0; k < box[1]; k += step[1])
        for (int32_t l = 0; l < box[0]; l += step[0]) body(Axes{l, k, j, i});
}

// How many k-steps of all boxes have a pixel that is live for the tap.
double k_steps(const FrameTap&, const Axes& box);
// The k-steps of the box at `at` with a pixel that is live for the tap.
uint32_t live_steps(const FrameTap&, const Axes& box, const Axes& at);

// Those worth trying.
std::vector<Axes> boxes_of(const Frame&);

}  // namespace cks::cuda::hopper::gradient

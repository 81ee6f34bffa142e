// The plan: an operator and its shapes, lowered to output tiles, each with the filter taps that are alive in it.
//
// ConvV2 trims taps by tile. KSDeconv is product(stride) such convolutions (phases) whose outputs interleave. SkDilated
// is the same with offsets times the dilation. The kernels know nothing of padding, stride or dilation: they walk taps.
// Source: C-K-S, Zhang et al., arXiv 2306.15951; the tiling of live taps in boxes of (n, d, h, w) is ours.
#pragma once
#include <cstdint>
#include <vector>

#include "plan/problem.h"

namespace cks {

using Index3 = std::array<int32_t, 3>;  // D, H, W

// Output pixel o = first + step * q, q in [0, count), reads input pixel q * in_step + Tap::offset.
// A convolution is one phase (first 0, step 1, in_step = stride); a transposed one has up to product(stride) (in_step
// 1).
struct Phase {
  Index3 first, step, count, in_step;
};

// One filter tap as the pixels of a phase see it.
struct Tap {
  Index3 offset;   // may be negative; a pixel for which it falls outside the input reads zero
  int32_t filter;  // (t * R + r) * S + s
};

// A box of output pixels of one phase, in the phase's own coordinates q, and its live taps, taps[first_tap, first_tap +
// num_taps): each is live for at least one pixel of the tile, and none that is live is missing. num_taps may be 0
// (epilogue only).
struct Tile {
  int32_t phase, n;
  Index3 origin;
  int32_t extent_n;
  Index3 extent;  // clipped: every pixel of the tile exists
  int32_t first_tap, num_taps;
};

struct Box {
  int32_t n = 1;
  Index3 extent{1, 1, 1};
  int64_t pixels() const { return int64_t(n) * extent[0] * extent[1] * extent[2]; }
};

struct Plan {
  Box box;  // what every tile is cut from; tiles at a border may be smaller
  std::vector<Phase> phases;
  std::vector<Tap> taps;    // lists shared by all tiles with the same live taps
  std::vector<Tile> tiles;  // longest tap list first: the order to schedule them in
  int64_t executed_pixel_taps =
      0;  // sum over tiles of box.pixels() * num_taps: what a kernel with full tiles multiplies, per (c, k)
  int64_t live_pixel_taps = 0;  // pairs of an output pixel and a tap that reads a real input pixel
};

// The box of at most `rows` pixels, and of at most `limit` along each axis, that multiplies least, counting
// `tile_overhead` taps for each tile beside its own.
inline constexpr Index3 kNoLimit{INT32_MAX, INT32_MAX, INT32_MAX};
Box choose_box(const Problem&, int rows, double tile_overhead, const Index3& limit = kNoLimit);
Plan make_plan(const Problem&, const Box&);

// Pixels of a phase for which a tap reads a real input pixel: q in [begin, end) on each axis (empty where begin >=
// end).
struct LiveRange {
  Index3 begin, end;
};
LiveRange live_range(const Problem&, const Phase&, const Tap&);

// Pairs of an output pixel and a filter tap, all of them (in a transposed convolution: as if the stride's zeros were
// multiplied). 1 - Plan::live_pixel_taps / this is the share of multiply-adds that are zeros.
int64_t dense_pixel_taps(const Problem&);

// Those of them that read a real input pixel: Plan::live_pixel_taps, without a plan.
int64_t live_pixel_taps(const Problem&);

// The weight gradient dW[k][c][tap] = sum over n and over the live output pixels of x[.., c] * dy[.., k] walks the same
// pairs, tap by tap: for each tap of a Conv problem the pixels of dY for which it reads a real input pixel. An empty
// range gives dW = 0.
struct GradientTap {
  Tap tap;
  LiveRange live;
};
std::vector<GradientTap> weight_gradient_taps(const Problem&);

}  // namespace cks

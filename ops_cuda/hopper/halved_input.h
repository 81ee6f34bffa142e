// Floats of X as halves, in the workspace, before the kernel: half the bytes for each time that a tile reads them, and
// nothing to convert on the way. A power of two, a scale, makes up for the range that a half lacks (halves.cuh).
#pragma once
#include "plan/problem.h"

namespace cks::cuda::hopper {

// X, or X and X2 side by side, as NHWC. Halves [images][pixels][pitch], then floats: what undoes each scale.
//
// An image has one scale. Its values keep a half's eleven digits down to 2^-15 of the largest, and below that are no
// further off than 2^-26 of it: less than the last digit of a float of its size. Where each output pixel reads one
// input pixel only, every pixel has a scale of its own.
struct HalvedInput {
  int64_t images, pixels;         // of an image
  int64_t channels, x2_channels;  // together a multiple of 4; x2's, which are among them, of 32
  bool pixel_scales;              // of the one image that there is
  int multiprocessors;

  HalvedInput(const Problem&, int multiprocessors);

  int64_t pitch() const;  // of a pixel, in halves
  int64_t scales() const { return pixel_scales ? pixels : images; }
  size_t scales_at() const;  // bytes from the beginning
  size_t bytes() const;

  // A thread of a block reads four channels at once, so many times before it waits; and holds so many of them at most.
  static constexpr int kThreads = 256, kBatch = 8, kMostHeld = 16;

  // Blocks of a cluster that holds an image in registers, so that it is read once, in one launch; 0 where it is too
  // large for that, or not in a row.
  int cluster() const;
  int64_t quads_of_image() const { return pixels * pitch() / 4; }
  // Otherwise blocks that share an image in two launches.
  int blocks_of_image() const;
};

}  // namespace cks::cuda::hopper

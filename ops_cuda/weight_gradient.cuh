// What the kernels of the weight gradient share: which work is theirs, and a walk over live pixels.
#pragma once
#include "ops_cuda/weight_gradient.h"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {

struct GradientWork {
  int column_tile, row_tile, group, slice;
  int tap;                      // index into args.taps
  int64_t first_pixel, pixels;  // of the tap's live pixels, of all images
};

// kAlign: slices start at multiples of it.
template <int kAlign>
__device__ GradientWork gradient_work(const WeightGradientArgs& args) {
  int64_t block = blockIdx.x;
  const auto next = [&block](int count) {
    const int i = int(block % count);
    block /= count;
    return i;
  };
  GradientWork work;
  work.column_tile = next(args.column_tiles);
  work.row_tile = next(args.row_tiles);
  work.group = next(args.groups);
  work.tap = next(args.num_taps);
  work.slice = int(block);
  const Int3& extent = args.taps[work.tap].extent;
  const int64_t all = args.images * extent.d * extent.h * extent.w;
  const int64_t slice = ((all + args.slices - 1) / args.slices + kAlign - 1) / kAlign * kAlign;
  work.first_pixel = work.slice * slice;
  work.pixels = min(slice, all - work.first_pixel);  // may be negative
  return work;
}

// A walk over the live pixels of a tap in equal steps: digits of a number whose radix is the extent, so that a step
// costs additions only.
class LivePixels {
 public:
  __device__ LivePixels(const LiveTap& tap, int64_t first, int step)
      : extent_(tap.extent), begin_(tap.begin), at_(digits(first)), step_(digits(step)) {}

  __device__ void advance() {
    at_.q.w += step_.q.w;
    int carry = at_.q.w >= extent_.w;
    at_.q.w -= carry * extent_.w;
    at_.q.h += step_.q.h + carry;
    carry = at_.q.h >= extent_.h;
    at_.q.h -= carry * extent_.h;
    at_.q.d += step_.q.d + carry;
    carry = at_.q.d >= extent_.d;
    at_.q.d -= carry * extent_.d;
    at_.n += step_.n + carry;
  }

  __device__ int image() const { return at_.n; }
  __device__ Int3 output() const { return begin_ + at_.q; }

 private:
  __device__ TilePixel digits(int64_t v) const {
    TilePixel p;
    if (extent_.d == 0 || extent_.h == 0 || extent_.w == 0) return {};
    p.q.w = int(v % extent_.w), v /= extent_.w;
    p.q.h = int(v % extent_.h), v /= extent_.h;
    p.q.d = int(v % extent_.d), p.n = int(v / extent_.d);
    return p;
  }

  Int3 extent_, begin_;
  TilePixel at_, step_;
};

// Where in the operand pixel p of image n starts, in elements.
__device__ inline int64_t operand_offset(const GradientOperand& operand, int64_t n, const Int3& p) {
  return (n * operand.size.d * operand.size.h * operand.size.w + pixel_index(operand.size, p)) * operand.pitch;
}

__device__ inline float* partial_at(const WeightGradientArgs& args, const GradientWork& work, int64_t k, int64_t c) {
  const int64_t matrix = int64_t(work.slice) * args.num_taps + work.tap;
  return args.partial + (matrix * args.K + k) * args.group_c + c;
}

}  // namespace cks::cuda

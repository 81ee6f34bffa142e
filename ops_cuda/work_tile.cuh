// Rows of a tile: row m of the matrix that a kernel multiplies is one output pixel.
#pragma once
#include "ops_cuda/device_plan.h"

namespace cks::cuda {

struct TilePixel {
  int n;
  Int3 q;  // in the tile
};

__device__ inline int pixels(const WorkTile& tile) {
  return tile.extent_n * tile.extent.d * tile.extent.h * tile.extent.w;
}

__device__ inline TilePixel pixel_of_row(const WorkTile& tile, int row) {
  TilePixel p;
  p.q.w = row % tile.extent.w;
  row /= tile.extent.w;
  p.q.h = row % tile.extent.h;
  row /= tile.extent.h;
  p.q.d = row % tile.extent.d;
  p.n = tile.n + row / tile.extent.d;
  return p;
}

__device__ inline Int3 along(const Int3& origin, const Int3& step, const Int3& q) {
  return {origin.d + step.d * q.d, origin.h + step.h * q.h, origin.w + step.w * q.w};
}

// The linear index of a pixel in an image of extent `size`.
__device__ inline int64_t pixel_index(const Int3& size, const Int3& p) {
  return (int64_t(p.d) * size.h + p.h) * size.w + p.w;
}

__device__ inline bool inside(const Int3& size, const Int3& p) {
  return unsigned(p.d) < unsigned(size.d) && unsigned(p.h) < unsigned(size.h) && unsigned(p.w) < unsigned(size.w);
}

__device__ inline Int3 operator+(const Int3& a, const Int3& b) { return {a.d + b.d, a.h + b.h, a.w + b.w}; }

// Where pixels and channels lie in a tensor of either layout, in elements: image n starts at n * image, pixel p of it
// is p * pixel further, channel c another c * channel.
struct Strides {
  int64_t image, pixel, channel;
};

}  // namespace cks::cuda

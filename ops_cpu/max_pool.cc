#include "ops_cpu/max_pool.h"

#include <algorithm>

#include "ops_cpu/kernels.h"

namespace cks::cpu {
namespace {

constexpr int64_t kBlock = 256;  // channels at a time: their maxima stay in the first-level cache

float lowest(DataType type) {
  switch (type) {
    case DataType::kFloat:
      return -0x1.fffffep127f;
    case DataType::kHalf:
      return -65504;
    case DataType::kBFloat16:
      return -0x1.fep127f;
  }
  return 0;
}

void take_larger(const float* value, int64_t count, float* best) {
  for (int64_t i = 0; i < count; ++i) best[i] = value[i] > best[i] || value[i] != value[i] ? value[i] : best[i];
}

}  // namespace

void MaxPool::run(const void* x, void* y, const ParallelFor& parallel_for) const {
  const int64_t rows = problem_.N * problem_.output[0] * problem_.output[1];
  parallel_for(rows, [&](int64_t row) { pool_row(static_cast<const char*>(x), static_cast<char*>(y), row); });
}

// One row of output pixels, counted over all planes and images. Maxima are taken in float, which holds the other types'
// values exactly.
void MaxPool::pool_row(const char* x, char* y, int64_t row) const {
  const Problem& p = problem_;
  const Kernels& convert = kernels();
  const int64_t C = p.filter.C, pixel_bytes = C * int64_t(size_of(type_));
  const int64_t h = row % p.output[1], plane = row / p.output[1], d = plane % p.output[0], n = plane / p.output[0];
  const auto inside = [&](int axis, int64_t at) { return at >= 0 && at < p.input[axis]; };
  float best[kBlock], converted[kBlock];
  for (int64_t w = 0; w < p.output[2]; ++w)
    for (int64_t c = 0; c < C; c += kBlock) {
      const int64_t count = std::min(kBlock, C - c), offset = c * int64_t(size_of(type_));
      bool empty = true;
      for (int64_t t = 0; t < p.filter.extent[0]; ++t)
        for (int64_t r = 0; r < p.filter.extent[1]; ++r)
          for (int64_t s = 0; s < p.filter.extent[2]; ++s) {
            const int64_t at_d = d * p.stride[0] - p.pad[0] + t * p.dilation[0];
            const int64_t at_h = h * p.stride[1] - p.pad[1] + r * p.dilation[1];
            const int64_t at_w = w * p.stride[2] - p.pad[2] + s * p.dilation[2];
            if (!inside(0, at_d) || !inside(1, at_h) || !inside(2, at_w)) continue;
            const int64_t pixel = ((n * p.input[0] + at_d) * p.input[1] + at_h) * p.input[2] + at_w;
            const char* source = x + pixel * pixel_bytes + offset;
            if (empty) {
              convert.to_float(source, type_, count, best);
            } else if (type_ == DataType::kFloat) {
              take_larger(reinterpret_cast<const float*>(source), count, best);
            } else {
              convert.to_float(source, type_, count, converted);
              take_larger(converted, count, best);
            }
            empty = false;
          }
      if (empty) std::fill_n(best, count, lowest(type_));
      convert.from_float(best, type_, count, y + (row * p.output[2] + w) * pixel_bytes + offset);
    }
}

}  // namespace cks::cpu

// The sums of products: register tiles of rows x width floats, one template for every shape. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/kernels.h"
#include "ops_cpu/vectors.h"

namespace {

using cks::cpu::GradientProduct;
using cks::cpu::kMaxRows;
using cks::cpu::TapProduct;

// fetch_ahead: w comes from main memory, and the hardware's own prefetching stops at every page. It costs a few percent
// where w is in the cache.
template <int rows, int width, bool fetch_ahead>
void tap_product(const TapProduct& p, float* out) {
  constexpr int64_t kAhead = 2048;  // two pages of 4 KB
  using P = Panel<width>;
  using V = typename P::V;
  V acc[rows][P::vectors] = {};
  if (p.accumulate)
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
      for (int v = 0; v < P::vectors; ++v) acc[m][v] = load<V>(out + m * width + v * P::lanes);
  for (int64_t t = 0; t < p.taps; ++t) {
    const float* x[rows];
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) x[m] = p.x[t * kMaxRows + m] + p.x_offset;
    const float* w = p.w + p.filter[t] * p.slab;
    for (int64_t c = 0; c < p.channels * p.span[t]; ++c, w += width) {
      V wv[P::vectors];
#pragma GCC unroll 2
      for (int v = 0; v < P::vectors; ++v) {
        wv[v] = load<V>(w + v * P::lanes);
        if constexpr (fetch_ahead) __builtin_prefetch(w + v * P::lanes + kAhead);
      }
#pragma GCC unroll 16
      for (int m = 0; m < rows; ++m) {
        const float value = x[m][c];
#pragma GCC unroll 2
        for (int v = 0; v < P::vectors; ++v) acc[m][v] += wv[v] * value;
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < P::vectors; ++v) store(out + m * width + v * P::lanes, acc[m][v]);
}

template <class V>
inline float sum_of(V v) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  if constexpr (lanes == 1) {
    return v;
  } else {
    using Half = typename VectorOf<lanes / 2>::type;
    Half half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return sum_of<Half>(half[0] + half[1]);
  }
}

// Panels of so few channels would leave most lanes idle: here a vector is input channels, whose sums meet at the end.
template <int width>
void narrow_product(const TapProduct& p, float* out) {
  constexpr int kRowsAtOnce = kRows / 2;  // times `width` sums, which fill the registers at width 4
  using V = typename VectorOf<kLanes>::type;
  for (int first = 0; first < p.rows; first += kRowsAtOnce) {
    const int rows = p.rows - first < kRowsAtOnce ? p.rows - first : kRowsAtOnce;
    V acc[kRowsAtOnce][width] = {};
    float rest[kRowsAtOnce][width] = {};  // of the channels that do not fill a vector
    for (int64_t t = 0; t < p.taps; ++t) {
      const float* x[kRowsAtOnce];  // rows that do not exist repeat the first one
#pragma GCC unroll 16
      for (int m = 0; m < kRowsAtOnce; ++m) x[m] = p.x[t * kMaxRows + (m < rows ? first + m : first)] + p.x_offset;
      const float* w = p.w + p.filter[t] * p.slab;
      int64_t c = 0;
      for (; c + kLanes <= p.channels; c += kLanes) {
        V wv[width];
#pragma GCC unroll 4
        for (int k = 0; k < width; ++k) wv[k] = load<V>(w + k * p.channels + c);
#pragma GCC unroll 16
        for (int m = 0; m < kRowsAtOnce; ++m) {
          const V xv = load<V>(x[m] + c);
#pragma GCC unroll 4
          for (int k = 0; k < width; ++k) acc[m][k] += xv * wv[k];
        }
      }
      for (; c < p.channels; ++c)
        for (int m = 0; m < rows; ++m)
          for (int k = 0; k < width; ++k) rest[m][k] += x[m][c] * w[k * p.channels + c];
    }
#pragma GCC unroll 16
    for (int m = 0; m < kRowsAtOnce; ++m)
      if (m < rows)
#pragma GCC unroll 4
        for (int k = 0; k < width; ++k) out[(first + m) * width + k] = sum_of(acc[m][k]) + rest[m][k];
  }
}

template <int rows, int width>
void depthwise_product(const TapProduct& p, float* out) {
  using P = Panel<width>;
  using V = typename P::V;
  V acc[rows][P::vectors] = {};
  for (int64_t t = 0; t < p.taps; ++t) {
    const float* w = p.w + p.filter[t] * p.slab;
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
      const float* x = p.x[t * kMaxRows + m] + p.x_offset;
#pragma GCC unroll 2
      for (int v = 0; v < P::vectors; ++v) acc[m][v] += load<V>(w + v * P::lanes) * load<V>(x + v * P::lanes);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < P::vectors; ++v) store(out + m * width + v * P::lanes, acc[m][v]);
}

template <int rows, int width>
void gradient_product(const GradientProduct& p, float* out) {
  using P = Panel<width>;
  using V = typename P::V;
  V acc[rows][P::vectors];
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < P::vectors; ++v) acc[m][v] = load<V>(out + m * width + v * P::lanes);
  for (int64_t r = 0; r < p.num_runs; ++r) {
    const float* row = p.runs[r].row + p.row_offset;
    const float* column = p.runs[r].column + p.column_offset;
    for (int64_t i = 0; i < p.length; ++i, row += p.row_step, column += p.column_step) {
      V cv[P::vectors];
#pragma GCC unroll 2
      for (int v = 0; v < P::vectors; ++v) cv[v] = load<V>(column + v * P::lanes);
#pragma GCC unroll 16
      for (int m = 0; m < rows; ++m) {
        const float value = row[m];
#pragma GCC unroll 2
        for (int v = 0; v < P::vectors; ++v) acc[m][v] += cv[v] * value;
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 2
    for (int v = 0; v < P::vectors; ++v) store(out + m * width + v * P::lanes, acc[m][v]);
}

template <int width>
void depthwise_gradient(const GradientProduct& p, float* out) {
  using P = Panel<width>;
  using V = typename P::V;
  V acc[P::vectors];
  for (int v = 0; v < P::vectors; ++v) acc[v] = load<V>(out + v * P::lanes);
  for (int64_t r = 0; r < p.num_runs; ++r) {
    const float* row = p.runs[r].row + p.row_offset;
    const float* column = p.runs[r].column + p.column_offset;
    for (int64_t i = 0; i < p.length; ++i, row += p.row_step, column += p.column_step)
      for (int v = 0; v < P::vectors; ++v) acc[v] += load<V>(row + v * P::lanes) * load<V>(column + v * P::lanes);
  }
  for (int v = 0; v < P::vectors; ++v) store(out + v * P::lanes, acc[v]);
}

}  // namespace

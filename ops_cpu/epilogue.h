// Sums on their way to Y: bias, residual, activation, rounding, layout. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/activations.h"
#include "ops_cpu/elements.h"

namespace {

using cks::cpu::Epilogue;

inline void narrow4(V4 v, float* to) { store(to, v); }
template <class T>
inline void narrow4(V4 v, T* to) {
  for (int r = 0; r < 4; ++r) narrow(v[r], to + r);
}

// Calls square(m, i) for each whole square of four channels and four pixels that are contiguous in a plane, and
// channels(m, i, count) for each of the other pixels. Four planes from end to end, then the next: many planes at a time
// would meet in the same sets of the cache.
template <class Square, class Channels>
inline void for_each_four_planes(int64_t rows, int64_t count, const int64_t* pixel, Square square, Channels channels) {
  for (int64_t i = 0; i < count; i += 4) {
    const int64_t planes = count - i < 4 ? count - i : 4;
    for (int64_t m = 0; m < rows;) {
      const int64_t* p = pixel + m;
      if (planes < 4) {
        channels(m++, i, planes);
      } else if (rows - m >= 4 && p[1] - p[0] == 1 && p[2] - p[0] == 2 && p[3] - p[0] == 3) {
        square(m, i);
        m += 4;
      } else {
        channels(m++, i, 4);
      }
    }
  }
}

// Of V4 or float.
template <class V>
inline V leaky_relu(V x, float slope) {
  return x < 0 ? slope * x : x;
}

template <class T>
inline void add_planes(const Epilogue& e, float* sums, int rows, int64_t width, int count, const int64_t* pixel,
                       int64_t k) {
  const int64_t step = e.channel_step;
  const float slope = e.residual_slope;
  const T* residual = static_cast<const T*>(e.residual) + k * step;
  const auto square = [=](int64_t m, int64_t i) {
    const T* corner = residual + i * step + pixel[m];
    V4 v[] = {widen4(corner), widen4(corner + step), widen4(corner + 2 * step), widen4(corner + 3 * step)};
    transpose4(v[0], v[1], v[2], v[3]);
    for (int r = 0; r < 4; ++r) {
      float* row = sums + (m + r) * width + i;
      store(row, load<V4>(row) + leaky_relu(v[r], slope));
    }
  };
  const auto channels = [=](int64_t m, int64_t i, int64_t planes) {
    for (int64_t j = 0; j < planes; ++j) {
      float& sum = sums[m * width + i + j];
      sum += leaky_relu(widen(residual[(i + j) * step + pixel[m]]), slope);
    }
  };
  for_each_four_planes(rows, count, pixel, square, channels);
}

template <class T>
inline void store_planes(const Epilogue& e, const float* sums, int rows, int64_t width, int count, const int64_t* pixel,
                         int64_t k) {
  const int64_t step = e.channel_step;
  T* y = static_cast<T*>(e.y) + k * step;
  const auto square = [=](int64_t m, int64_t i) {
    const float* corner = sums + m * width + i;
    V4 v[] = {load<V4>(corner), load<V4>(corner + width), load<V4>(corner + 2 * width), load<V4>(corner + 3 * width)};
    transpose4(v[0], v[1], v[2], v[3]);
    for (int j = 0; j < 4; ++j) narrow4(v[j], y + (i + j) * step + pixel[m]);
  };
  const auto channels = [=](int64_t m, int64_t i, int64_t planes) {
    for (int64_t j = 0; j < planes; ++j) narrow(sums[m * width + i + j], y + (i + j) * step + pixel[m]);
  };
  for_each_four_planes(rows, count, pixel, square, channels);
}

inline void apply_slopes(const float* slopes, float* sums, int rows, int64_t width, int count) {
  for (int m = 0; m < rows; ++m)
    for (int i = 0; i < count; ++i) {
      float& v = sums[m * width + i];
      v = leaky_relu(v, slopes[i]);
    }
}

void store_sums(const Epilogue& e, float* sums, int rows, int width, int skip, int count, const int64_t* pixel,
                int64_t k) {
  float* first = sums + skip;
  for (int m = 0; m < rows; ++m)
    for (int i = 0; i < count; ++i) first[m * width + i] += e.bias[k + i];
  with_type(e.type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    if (e.residual && e.channel_step != 1) add_planes<T>(e, first, rows, width, count, pixel, k);
    if (e.residual && e.channel_step == 1)
      for (int m = 0; m < rows; ++m)
        for (int i = 0; i < count; ++i)
          first[m * width + i] +=
              leaky_relu(widen(static_cast<const T*>(e.residual)[pixel[m] + k + i]), e.residual_slope);
    if (e.activation.kind == cks::ActivationKind::kPRelu)
      apply_slopes(e.activation.slopes.data() + k, first, rows, width, count);
    else
      activate(e.activation, sums, int64_t(rows) * width);
    if (e.channel_step != 1) return store_planes<T>(e, first, rows, width, count, pixel, k);
    for (int m = 0; m < rows; ++m)
      for (int i = 0; i < count; ++i) narrow(first[m * width + i], static_cast<T*>(e.y) + pixel[m] + k + i);
  });
}

}  // namespace

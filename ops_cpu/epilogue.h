// Sums on their way to Y: bias, residual, activation, rounding, layout. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/activations.h"
#include "ops_cpu/elements.h"

namespace {

using cks::cpu::Epilogue;

// Calls f(row, column, height, columns, neighbours) for each square of [rows][count], with as much of it as exists.
// neighbours: its pixels are four, contiguous in a plane. Four planes from end to end, then the next: many planes at a
// time would meet in the same sets of the cache. Whole squares, nearly all, have constant sizes.
template <class F>
inline void for_each_square(int rows, int count, const int64_t* pixel, F f) {
  for (int i = 0; i < count; i += 4)
    for (int m = 0; m < rows; m += 4) {
      const int64_t* p = pixel + m;
      if (rows - m < 4 || count - i < 4)
        f(m, i, rows - m < 4 ? rows - m : 4, count - i < 4 ? count - i : 4, false);
      else if (p[1] - p[0] == 1 && p[2] - p[0] == 2 && p[3] - p[0] == 3)
        f(m, i, 4, 4, true);
      else
        f(m, i, 4, 4, false);
    }
}

template <class T>
inline void add_planes(const Epilogue& e, float* sums, int rows, int width, int count, const int64_t* pixel,
                       int64_t k) {
  const T* residual = static_cast<const T*>(e.residual) + k * e.channel_step;
  for_each_square(rows, count, pixel, [=](int m, int i, int height, int columns, bool neighbours) {
    const T* corner = residual + i * e.channel_step;
    for (int j = 0; j < columns; ++j)
      for (int r = 0; r < height; ++r)
        sums[(m + r) * width + i + j] += widen(corner[j * e.channel_step + (neighbours ? pixel[m] + r : pixel[m + r])]);
  });
}

inline void narrow4(V4 v, float* to) { store(to, v); }
template <class T>
inline void narrow4(V4 v, T* to) {
  for (int r = 0; r < 4; ++r) narrow(v[r], to + r);
}

template <class T>
inline void store_planes(const Epilogue& e, const float* sums, int rows, int width, int count, const int64_t* pixel,
                         int64_t k) {
  T* y = static_cast<T*>(e.y) + k * e.channel_step;
  const int64_t step = e.channel_step;
  for_each_square(rows, count, pixel, [=](int m, int i, int height, int columns, bool neighbours) {
    const float* corner = sums + m * width + i;
    V4 v[] = {load<V4>(corner), load<V4>(corner + width), load<V4>(corner + 2 * width), load<V4>(corner + 3 * width)};
    transpose4(v[0], v[1], v[2], v[3]);
    for (int j = 0; j < columns; ++j) {
      T* plane = y + (i + j) * step;
      if (neighbours)
        narrow4(v[j], plane + pixel[m]);
      else
        for (int r = 0; r < height; ++r) narrow(v[j][r], plane + pixel[m + r]);
    }
  });
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
          first[m * width + i] += widen(static_cast<const T*>(e.residual)[pixel[m] + k + i]);
    activate(e.activation, sums, int64_t(rows) * width);
    if (e.channel_step != 1) return store_planes<T>(e, first, rows, width, count, pixel, k);
    for (int m = 0; m < rows; ++m)
      for (int i = 0; i < count; ++i) narrow(first[m * width + i], static_cast<T*>(e.y) + pixel[m] + k + i);
  });
}

}  // namespace

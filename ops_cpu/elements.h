// Elements in and out of memory: data types, layouts, and the epilogue's store. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/activations.h"
#include "ops_cpu/kernels.h"
#include "ops_cpu/vectors.h"

namespace {

using cks::DataType;
using cks::cpu::Epilogue;
using cks::cpu::kMaxRows;
using cks::cpu::kMaxWidth;

struct BFloat16 {
  uint16_t bits;
};
using Half = _Float16;

inline float widen(float v) { return v; }
inline float widen(Half v) { return static_cast<float>(v); }
inline float widen(BFloat16 v) {
  const uint32_t bits = uint32_t(v.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

inline void narrow(float v, float* to) { *to = v; }
inline void narrow(float v, Half* to) { *to = static_cast<Half>(v); }
inline void narrow(float v, BFloat16* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const uint32_t nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  to->bits = static_cast<uint16_t>(v == v ? nearest_even : quiet_nan);
}

// Calls f with a null pointer to the type.
template <class F>
inline void with_type(DataType type, F f) {
  switch (type) {
    case DataType::kFloat:
      return f(static_cast<float*>(nullptr));
    case DataType::kHalf:
      return f(static_cast<Half*>(nullptr));
    case DataType::kBFloat16:
      return f(static_cast<BFloat16*>(nullptr));
  }
}

void to_float(const void* from, DataType type, int64_t count, float* to) {
  with_type(type, [=](auto* t) {
    const auto* source = static_cast<decltype(t)>(const_cast<void*>(from));
    for (int64_t i = 0; i < count; ++i) to[i] = widen(source[i]);
  });
}

void from_float(const float* from, DataType type, int64_t count, void* to) {
  with_type(type, [=](auto* t) {
    auto* target = static_cast<decltype(t)>(to);
    for (int64_t i = 0; i < count; ++i) narrow(from[i], target + i);
  });
}

inline V4 widen4(const float* p) { return load<V4>(p); }
template <class T>
inline V4 widen4(const T* p) {
  return V4{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
}

template <class T>
inline void widen_rows(const T* from, int64_t channels, int64_t pixels, int64_t begin, int64_t end, float* to) {
  for (int64_t p = begin; p < end; ++p)
    for (int64_t c = 0; c < channels; ++c) to[p * channels + c] = widen(from[c * pixels + p]);
}

void planes_to_rows(const void* from, DataType type, int64_t channels, int64_t pixels, int64_t begin, int64_t end,
                    float* to) {
  with_type(type, [=](auto* t) {
    const auto* source = static_cast<decltype(t)>(const_cast<void*>(from));
    const int64_t c_end = channels / 4 * 4, p_end = begin + (end - begin) / 4 * 4;
    for (int64_t p = begin; p < p_end; p += 4)
      for (int64_t c = 0; c < c_end; c += 4) {
        const auto* block = source + c * pixels + p;
        V4 v[] = {widen4(block), widen4(block + pixels), widen4(block + 2 * pixels), widen4(block + 3 * pixels)};
        transpose4(v[0], v[1], v[2], v[3]);
        for (int i = 0; i < 4; ++i) store(to + (p + i) * channels + c, v[i]);
      }
    for (int64_t c = c_end; c < channels; ++c)
      for (int64_t p = begin; p < p_end; ++p) to[p * channels + c] = widen(source[c * pixels + p]);
    widen_rows(source, channels, pixels, p_end, end, to);
  });
}

// Channels contiguous (channel_step 1): row by row. Else channel by channel, so that neighbouring pixels of a plane are
// written together.
template <class T>
inline void store_elements(const Epilogue& e, const float* acc, int rows, int width, int count, const int64_t* pixel,
                           int64_t k) {
  T* y = static_cast<T*>(e.y);
  if (e.channel_step == 1) {
    for (int m = 0; m < rows; ++m)
      for (int i = 0; i < count; ++i) narrow(acc[m * width + i], y + pixel[m] + k + i);
    return;
  }
  bool neighbours = true;
  for (int m = 1; m < rows; ++m) neighbours &= pixel[m] == pixel[0] + m;
  for (int i = 0; i < count; ++i) {
    T* plane = y + (k + i) * e.channel_step;
    if (neighbours)
      for (int m = 0; m < rows; ++m) narrow(acc[m * width + i], plane + pixel[0] + m);
    else
      for (int m = 0; m < rows; ++m) narrow(acc[m * width + i], plane + pixel[m]);
  }
}

template <class T>
inline void add_residual(const Epilogue& e, float* acc, int rows, int width, int count, const int64_t* pixel,
                         int64_t k) {
  const T* residual = static_cast<const T*>(e.residual);
  for (int m = 0; m < rows; ++m)
    for (int i = 0; i < count; ++i) acc[m * width + i] += widen(residual[pixel[m] + (k + i) * e.channel_step]);
}

void store_tile(const Epilogue& e, float* acc, int rows, int width, int skip, int count, const int64_t* pixel,
                int64_t k) {
  float* sums = acc + skip;
  for (int m = 0; m < rows; ++m)
    for (int i = 0; i < count; ++i) sums[m * width + i] += e.bias[k + i];
  with_type(e.type, [&](auto* t) {
    using T = std::remove_pointer_t<decltype(t)>;
    if (e.residual) add_residual<T>(e, sums, rows, width, count, pixel, k);
    activate(e.activation, acc, int64_t(rows) * width);
    store_elements<T>(e, sums, rows, width, count, pixel, k);
  });
}

}  // namespace

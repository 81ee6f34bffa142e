// Elements in and out of memory: data types and layouts. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/kernels.h"
#include "ops_cpu/vectors.h"

namespace {

using cks::DataType;

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

void widen_rows(const void* from, DataType type, int64_t channels, int64_t begin, int64_t end, float* to,
                int64_t pitch) {
  for (int64_t p = begin; p < end; ++p)
    to_float(static_cast<const char*>(from) + p * channels * int64_t(cks::size_of(type)), type, channels,
             to + p * pitch);
}

void planes_to_rows(const void* from, DataType type, int64_t channels, int64_t pixels, int64_t begin, int64_t end,
                    float* to, int64_t pitch) {
  with_type(type, [=](auto* t) {
    const auto* source = static_cast<decltype(t)>(const_cast<void*>(from));
    const int64_t c_end = channels / 4 * 4, p_end = begin + (end - begin) / 4 * 4;
    // In squares of 16 by 16: whole cache lines of the planes read, whole cache lines of the rows written.
    for (int64_t p0 = begin; p0 < p_end; p0 += 16)
      for (int64_t c0 = 0; c0 < c_end; c0 += 16)
        for (int64_t p = p0; p < p_end && p < p0 + 16; p += 4)
          for (int64_t c = c0; c < c_end && c < c0 + 16; c += 4) {
            const auto* block = source + c * pixels + p;
            V4 v[] = {widen4(block), widen4(block + pixels), widen4(block + 2 * pixels), widen4(block + 3 * pixels)};
            transpose4(v[0], v[1], v[2], v[3]);
            for (int i = 0; i < 4; ++i) store(to + (p + i) * pitch + c, v[i]);
          }
    for (int64_t c = c_end; c < channels; ++c)
      for (int64_t p = begin; p < p_end; ++p) to[p * pitch + c] = widen(source[c * pixels + p]);
    for (int64_t p = p_end; p < end; ++p)
      for (int64_t c = 0; c < channels; ++c) to[p * pitch + c] = widen(source[c * pixels + p]);
  });
}

}  // namespace

// Vectors of floats for the instruction set this file is compiled for. Only isa_kernels.cc and its parts include it:
// everything here has internal linkage, lest the linker keep one instruction set's copy for all.
#pragma once
#include <cstdint>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

// Rows of a full tile: two vectors of sums a row, two of weights and one of x must fit in the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 12;
#else
constexpr int kRows = 6;
#endif

template <int lanes>
struct VectorOf {
  typedef float type __attribute__((vector_size(lanes * sizeof(float))));
};
template <>
struct VectorOf<1> {
  using type = float;
};

// `width` floats as one or two vectors.
template <int width>
struct Panel {
  static constexpr int lanes = width < kLanes ? width : kLanes;
  static constexpr int vectors = width / lanes;
  using V = typename VectorOf<lanes>::type;
};

template <class V>
inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
inline void store(float* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

using V4 = VectorOf<4>::type;
inline void transpose4(V4& a, V4& b, V4& c, V4& d) {
  const V4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const V4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

}  // namespace

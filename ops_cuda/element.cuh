// The element types of tensors: conversion to and from float, one by one and by chunks of 16 bytes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "plan/problem.h"

namespace cks::cuda {

// Calls f with a null pointer to the type.
template <class F>
void with_type(DataType type, F f) {
  switch (type) {
    case DataType::kFloat:
      return f(static_cast<float*>(nullptr));
    case DataType::kHalf:
      return f(static_cast<__half*>(nullptr));
    case DataType::kBFloat16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
  }
}

inline constexpr int kChunkBytes = 16;
template <class T>
inline constexpr int kChunk = kChunkBytes / int(sizeof(T));  // elements of a chunk

__device__ inline float to_float(float v) { return v; }
__device__ inline float to_float(__half v) { return __half2float(v); }
__device__ inline float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ T from_float(float v);
template <>
__device__ inline float from_float<float>(float v) {
  return v;
}
template <>
__device__ inline __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// The elements of a 32-bit word of a chunk.
__device__ inline void unpack_word(uint32_t word, float (&v)[1], float*) { v[0] = __uint_as_float(word); }
__device__ inline void unpack_word(uint32_t word, float (&v)[2], __half*) {
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
  v[0] = pair.x, v[1] = pair.y;
}
__device__ inline void unpack_word(uint32_t word, float (&v)[2], __nv_bfloat16*) {
  v[0] = __uint_as_float(word << 16), v[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ inline uint32_t pack_word(const float* v, float*) { return __float_as_uint(v[0]); }
__device__ inline uint32_t pack_word(const float* v, __half*) {
  const __half2 pair = __floats2half2_rn(v[0], v[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline uint32_t pack_word(const float* v, __nv_bfloat16*) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(v[0], v[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <class T, int kWords>
__device__ void unpack(const uint32_t (&word)[kWords], float (&v)[kWords * 4 / sizeof(T)]) {
  constexpr int kPerWord = 4 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    float part[kPerWord];
    unpack_word(word[i], part, static_cast<T*>(nullptr));
#pragma unroll
    for (int j = 0; j < kPerWord; ++j) v[i * kPerWord + j] = part[j];
  }
}

template <class T>
__device__ void unpack_chunk(uint4 chunk, float (&v)[kChunk<T>]) {
  const uint32_t word[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
  unpack<T>(word, v);
}

template <class T>
__device__ uint4 pack_chunk(const float (&v)[kChunk<T>]) {
  constexpr int kPerWord = 4 / sizeof(T);
  T* const type = nullptr;
  return {pack_word(v, type), pack_word(v + kPerWord, type), pack_word(v + 2 * kPerWord, type),
          pack_word(v + 3 * kPerWord, type)};
}

// One to four words of memory as one vector.
template <int kWords>
struct alignas(kWords * 4) Words {
  uint32_t word[kWords];
};
template <int kWords>
__device__ Words<kWords> load_words(const void* from) {
  static_assert(kWords == 1 || kWords == 2 || kWords == 4);
  if constexpr (kWords == 1) {
    return {{__ldg(static_cast<const uint32_t*>(from))}};
  } else if constexpr (kWords == 2) {
    const uint2 v = __ldg(static_cast<const uint2*>(from));
    return {{v.x, v.y}};
  } else {
    const uint4 v = __ldg(static_cast<const uint4*>(from));
    return {{v.x, v.y, v.z, v.w}};
  }
}

// One element, or a chunk, as a kernel on CUDA cores loads it; zeros where it is not valid.
template <class T, int kVector>
struct Elements {
  static_assert(kVector == 1 || kVector == kChunk<T>);
  using Raw = std::conditional_t<kVector == 1, T, uint4>;
  __device__ static Raw load(const T* from, bool valid) {
    if constexpr (kVector == 1)
      return valid ? *from : from_float<T>(0);
    else
      return valid ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
  }
  __device__ static void unpack(Raw raw, float (&v)[kVector]) {
    if constexpr (kVector == 1)
      v[0] = to_float(raw);
    else
      unpack_chunk<T>(raw, v);
  }
};

}  // namespace cks::cuda

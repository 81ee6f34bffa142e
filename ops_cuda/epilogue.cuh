// The device half of epilogue.h.
#pragma once
#include "ops_cuda/element.cuh"
#include "ops_cuda/epilogue.h"

namespace cks::cuda {

// NaN stays NaN: comparisons, not fmaxf.
__device__ inline float clamp(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

template <int kCount, class F>
__device__ void for_all(float (&v)[kCount], F f) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = f(v[i]);
}

__device__ inline float leaky_relu(float v, float slope) { return v < 0.f ? slope * v : v; }

// v + leaky_relu(z, slope).
__device__ inline float add_leaky(float v, float z, float slope) { return fmaf(z < 0.f ? slope : 1.f, z, v); }

// PRelu of neighbouring channels.
template <int kCount>
__device__ void apply_slopes(float (&v)[kCount], const float* slopes) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = leaky_relu(v[i], slopes[i]);
}

template <int kCount>
__device__ void activate(const Epilogue& e, float (&v)[kCount]) {
  const float alpha = e.alpha, beta = e.beta;
  switch (e.kind) {
    case ActivationKind::kNone:
    case ActivationKind::kPRelu:  // its slopes are the channels', and only the caller knows how those lie in v
      return;
    case ActivationKind::kRelu:
      return for_all(v, [](float x) { return x < 0.f ? 0.f : x; });
    case ActivationKind::kLeakyRelu:
      return for_all(v, [=](float x) { return leaky_relu(x, alpha); });
    case ActivationKind::kClip:
      return for_all(v, [=](float x) { return clamp(x, alpha, beta); });
    case ActivationKind::kSigmoid:
      return for_all(v, [](float x) { return 1.f / (1.f + expf(-x)); });
    case ActivationKind::kTanh:
      return for_all(v, [](float x) { return tanhf(x); });
    case ActivationKind::kHardSigmoid:
      return for_all(v, [=](float x) { return clamp(alpha * x + beta, 0.f, 1.f); });
    case ActivationKind::kHardSwish:
      return for_all(v, [](float x) { return x * clamp(x / 6.f + 0.5f, 0.f, 1.f); });
    case ActivationKind::kSilu:
      return for_all(v, [](float x) { return x / (1.f + expf(-x)); });
    case ActivationKind::kGelu:  // 1 + erf(z) = erfc(-z), which keeps its digits where erf(z) nears -1
      return for_all(v, [](float x) { return 0.5f * x * erfcf(-0.70710678f * x); });
    case ActivationKind::kGeluTanh:
      return for_all(v, [](float x) { return 0.5f * x * (1.f + tanhf(0.79788456f * (x + 0.044715f * x * x * x))); });
    case ActivationKind::kElu:
      return for_all(v, [=](float x) { return x < 0.f ? alpha * expm1f(x) : x; });
  }
}

// One output of channel k, at element `offset` of y.
template <class T>
__device__ void store_output(const Epilogue& e, float sum, int64_t k, int64_t offset) {
  float v[1] = {sum};
  if (e.bias) v[0] += to_float(static_cast<const T*>(e.bias)[k]);
  if (e.residual) v[0] = add_leaky(v[0], to_float(static_cast<const T*>(e.residual)[offset]), e.residual_slope);
  if (e.slopes) apply_slopes(v, e.slopes + k);
  activate(e, v);
  static_cast<T*>(e.y)[offset] = from_float<T>(v[0]);
}

// For kernels that store from many places: only what is short is copied into each of them.
__device__ __noinline__ inline float activated(ActivationKind kind, float alpha, float beta, float x) {
  float v[1] = {x};
  activate(Epilogue{.kind = kind, .alpha = alpha, .beta = beta}, v);
  return v[0];
}

template <int kCount>
__device__ void activate_by_calls(const Epilogue& e, float (&v)[kCount]) {
  if (e.kind == ActivationKind::kNone || e.kind == ActivationKind::kPRelu) return;
  if (e.kind == ActivationKind::kRelu) return for_all(v, [](float x) { return x < 0.f ? 0.f : x; });
  for_all(v, [&](float x) { return activated(e.kind, e.alpha, e.beta, x); });
}

// kCount elements side by side, moved at once: a vector of them must be aligned to its size. Negative ones are added
// `slope` times.
template <class T, int kCount>
__device__ void add_neighbours(float (&v)[kCount], const T* from, float slope = 1.f) {
  if constexpr (kCount == 1) {
    v[0] = add_leaky(v[0], to_float(*from), slope);
  } else {
    const auto words = load_words<kCount* int(sizeof(T)) / 4>(from);
    float term[kCount];
    unpack<T>(words.word, term);
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = add_leaky(v[i], term[i], slope);
  }
}
template <class T, int kCount>
__device__ void store_neighbours(const float (&v)[kCount], T* to) {
  if constexpr (kCount == 1) {
    *to = from_float<T>(v[0]);
  } else {
    constexpr int kPerWord = 4 / int(sizeof(T)), kWords = kCount / kPerWord;
    Words<kWords> words;
#pragma unroll
    for (int i = 0; i < kWords; ++i) words.word[i] = pack_word(v + i * kPerWord, static_cast<T*>(nullptr));
    *reinterpret_cast<Words<kWords>*>(to) = words;
  }
}

// A chunk of outputs of channels k, k + 1, ..., contiguous in y; k and offset are multiples of the chunk.
template <class T>
__device__ void store_chunk(const Epilogue& e, float (&v)[kChunk<T>], int64_t k, int64_t offset) {
  if (e.bias) add_neighbours(v, static_cast<const T*>(e.bias) + k);
  if (e.residual) add_neighbours(v, static_cast<const T*>(e.residual) + offset, e.residual_slope);
  if (e.slopes) apply_slopes(v, e.slopes + k);
  activate(e, v);
  store_neighbours(v, static_cast<T*>(e.y) + offset);
}

}  // namespace cks::cuda

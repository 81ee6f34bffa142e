// Activations on a block of floats, written without branches so that the compiler vectorises them. No libm: its
// functions would be called one element at a time. Part of isa_kernels.cc.
#pragma once
#include "ops_cpu/vectors.h"
#include "plan/problem.h"

namespace {

// A NaN fails every comparison, and so passes through.
inline float clip(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
inline float magnitude(float x) { return x < 0 ? -x : x; }

// exp(x) = 2^n * exp(r), |r| <= ln(2) / 2, the latter by its Taylor polynomial; relative error below 3e-7.
inline float exponential(float x) {
  x = clip(x, -87.0f, 88.0f);            // beyond, the result would leave the normal floats
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) + 127u) << 23);
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float hyperbolic_tangent(float x) {
  const float a = magnitude(x), square = x * x;
  // Near zero 1 - 2 / (exp(2a) + 1) would cancel: the Taylor series to x^11 instead.
  float series = -1382.0f / 155925;
  series = series * square + 62.0f / 2835;
  series = series * square - 17.0f / 315;
  series = series * square + 2.0f / 15;
  series = series * square - 1.0f / 3;
  series = x + x * square * series;
  const float t = 1.0f - 2.0f / (exponential(2.0f * a) + 1.0f);
  return a < 0.4f ? series : x < 0 ? -t : t;
}

// x Phi(x). The upper tail is erfc(|x| / sqrt 2) / 2 by Abramowitz and Stegun 7.1.26 (absolute error below 1e-7), which
// does not cancel where x is negative.
inline float gelu(float x) {
  const float z = magnitude(x) * 0.70710678f;
  const float t = 1.0f / (1.0f + 0.3275911f * z);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float tail = 0.5f * p * t * exponential(-z * z);
  return x * (x < 0 ? tail : 1.0f - tail);
}

template <class F>
inline void each(float* v, int64_t count, F f) {
  for (int64_t i = 0; i < count; ++i) v[i] = f(v[i]);
}

inline void activate(const cks::Activation& activation, float* v, int64_t count) {
  using enum cks::ActivationKind;
  const float alpha = activation.alpha, beta = activation.beta;
  switch (activation.kind) {
    case kNone:
    case kPRelu:  // its slopes are the channels': the caller's to apply
      return;
    case kRelu:
      return each(v, count, [](float x) { return x < 0 ? 0.0f : x; });
    case kLeakyRelu:
      return each(v, count, [=](float x) { return x < 0 ? alpha * x : x; });
    case kClip:
      return each(v, count, [=](float x) { return clip(x, alpha, beta); });
    case kSigmoid:
      return each(v, count, sigmoid);
    case kTanh:
      return each(v, count, hyperbolic_tangent);
    case kHardSigmoid:
      return each(v, count, [=](float x) { return clip(alpha * x + beta, 0.0f, 1.0f); });
    case kHardSwish:
      return each(v, count, [](float x) { return x * clip(x * (1.0f / 6) + 0.5f, 0.0f, 1.0f); });
    case kSilu:
      return each(v, count, [](float x) { return x * sigmoid(x); });
    case kGelu:
      return each(v, count, gelu);
    case kGeluTanh:
      return each(v, count, [](float x) {
        return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
      });
    case kElu:
      return each(v, count, [=](float x) { return x < 0 ? alpha * (exponential(x) - 1.0f) : x; });
  }
}

}  // namespace

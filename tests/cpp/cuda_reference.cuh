// The convolution and its weight gradient in float64 on the GPU, straight from the definition in plan/problem.h: no
// plan, one thread an output, every tap asked whether it meets an input. Each comes with the sum of magnitudes that an
// error bound needs.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "plan/problem.h"

namespace cks::test {

struct Size {
  int64_t d, h, w;
};
inline Size to_size(const Dims& v) { return {v[0], v[1], v[2]}; }

// A Problem without std::array, for the device.
struct Shapes {
  bool transposed, x_channels_last, y_channels_last;
  int64_t N, C, K, groups;
  Size filter, input, output, stride, dilation, pad;
};
inline Shapes to_shapes(const Problem& p, Layouts layouts) {
  return {p.filter.op == Operator::kConvTranspose,
          layouts.x == Layout::kNHWC,
          layouts.y == Layout::kNHWC,
          p.N,
          p.filter.C,
          p.filter.K,
          p.filter.groups,
          to_size(p.filter.extent),
          to_size(p.input),
          to_size(p.output),
          to_size(p.stride),
          to_size(p.dilation),
          to_size(p.pad)};
}

__device__ inline double value(float v) { return v; }
__device__ inline double value(__half v) { return __half2float(v); }
__device__ inline double value(__nv_bfloat16 v) { return __bfloat162float(v); }

__device__ inline int64_t offset(bool channels_last, const Size& size, int64_t channels, int64_t n, int64_t c,
                                 int64_t d, int64_t h, int64_t w) {
  return channels_last ? (((n * size.d + d) * size.h + h) * size.w + w) * channels + c
                       : (((n * channels + c) * size.d + d) * size.h + h) * size.w + w;
}

// The input position that output position o meets through tap t on one axis, or -1.
__device__ inline int64_t meets(bool transposed, int64_t o, int64_t t, int64_t stride, int64_t dilation, int64_t pad,
                                int64_t input) {
  int64_t i = transposed ? o + pad - t * dilation : o * stride - pad + t * dilation;
  if (transposed) {
    if (i < 0 || i % stride != 0) return -1;
    i /= stride;
  }
  return i >= 0 && i < input ? i : -1;
}

struct Sum {
  double value = 0, magnitude = 0;
  __device__ void add(double v) { value += v, magnitude += fabs(v); }
};

template <class T>
__device__ Sum convolution_at(const Shapes& s, const T* x, const T* w, int64_t n, int64_t k, Size o) {
  const int64_t group_c = s.C / s.groups, group_k = s.K / s.groups, group = k / group_k;
  Sum sum;
  for (int64_t t = 0; t < s.filter.d; ++t) {
    const int64_t d = meets(s.transposed, o.d, t, s.stride.d, s.dilation.d, s.pad.d, s.input.d);
    for (int64_t r = 0; d >= 0 && r < s.filter.h; ++r) {
      const int64_t h = meets(s.transposed, o.h, r, s.stride.h, s.dilation.h, s.pad.h, s.input.h);
      for (int64_t q = 0; h >= 0 && q < s.filter.w; ++q) {
        const int64_t v = meets(s.transposed, o.w, q, s.stride.w, s.dilation.w, s.pad.w, s.input.w);
        if (v < 0) continue;
        for (int64_t c = 0; c < group_c; ++c) {
          const int64_t channel = group * group_c + c;
          const int64_t weight = s.transposed ? channel * group_k + k % group_k : k * group_c + c;
          const int64_t tap = (t * s.filter.h + r) * s.filter.w + q;
          sum.add(value(x[offset(s.x_channels_last, s.input, s.C, n, channel, d, h, v)]) *
                  value(w[weight * s.filter.d * s.filter.h * s.filter.w + tap]));
        }
      }
    }
  }
  return sum;
}

template <class T>
__device__ Sum weight_gradient_at(const Shapes& s, const T* x, const T* dy, int64_t k, int64_t c, Size tap) {
  const int64_t channel = k / (s.K / s.groups) * (s.C / s.groups) + c;
  Sum sum;
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t od = 0; od < s.output.d; ++od) {
      const int64_t d = meets(false, od, tap.d, s.stride.d, s.dilation.d, s.pad.d, s.input.d);
      for (int64_t oh = 0; d >= 0 && oh < s.output.h; ++oh) {
        const int64_t h = meets(false, oh, tap.h, s.stride.h, s.dilation.h, s.pad.h, s.input.h);
        for (int64_t ow = 0; h >= 0 && ow < s.output.w; ++ow) {
          const int64_t w = meets(false, ow, tap.w, s.stride.w, s.dilation.w, s.pad.w, s.input.w);
          if (w >= 0)
            sum.add(value(x[offset(s.x_channels_last, s.input, s.C, n, channel, d, h, w)]) *
                    value(dy[offset(s.y_channels_last, s.output, s.K, n, k, od, oh, ow)]));
        }
      }
    }
  return sum;
}

// slope: of the channel's PRelu.
__device__ inline double activate(ActivationKind kind, double alpha, double beta, double slope, double v) {
  const auto clip = [](double u, double low, double high) { return fmin(fmax(u, low), high); };
  switch (kind) {
    case ActivationKind::kNone:
      return v;
    case ActivationKind::kRelu:
      return fmax(v, 0.0);
    case ActivationKind::kLeakyRelu:
      return v < 0 ? alpha * v : v;
    case ActivationKind::kClip:
      return clip(v, alpha, beta);
    case ActivationKind::kSigmoid:
      return 1 / (1 + exp(-v));
    case ActivationKind::kTanh:
      return tanh(v);
    case ActivationKind::kHardSigmoid:
      return clip(alpha * v + beta, 0, 1);
    case ActivationKind::kHardSwish:
      return v * clip(v / 6 + 0.5, 0, 1);
    case ActivationKind::kSilu:
      return v / (1 + exp(-v));
    case ActivationKind::kGelu:
      return v * (1 + erf(v / sqrt(2.0))) / 2;
    case ActivationKind::kGeluTanh:
      return v / 2 * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
    case ActivationKind::kElu:
      return v < 0 ? alpha * (exp(v) - 1) : v;
    case ActivationKind::kPRelu:
      return v < 0 ? slope * v : v;
  }
  return v;
}

}  // namespace cks::test

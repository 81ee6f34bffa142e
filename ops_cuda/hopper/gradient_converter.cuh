// Boxes of floats to the operands of the weight gradient, in shared memory: three warps turn what the producer has
// copied into halves, each channel scaled by a power of two. Where there are stages for all of them they take boxes in
// turn, because half of the time that one takes is latency; else they share each.
//
// The scales come from the block's first box, with room for values some times as large as any there. A channel that is
// zero there is scaled as the others are, and more; where all of them are, what comes later is too large for the scale.
// Should a half become infinite so, all of the block is done again, to find the largest values, and then once more.
#pragma once
#include "ops_cuda/hopper/gradient_halves.cuh"
#include "ops_cuda/hopper/gradient_ptx.cuh"
#include "ops_cuda/hopper/weight_gradient.h"

namespace cks::cuda::hopper {

// Behind the float boxes of a block; of dY's channels and X's.
struct GradientScales {
  int exponents[2][kSquare];
  uint32_t largest[2][kSquare];  // finite magnitudes, as bits
  int again;
};
static_assert(sizeof(GradientScales) <= kGradientScaleBytes);
__device__ inline GradientScales& gradient_scales(const GradientParams& p, uint32_t stages) {
  return *static_cast<GradientScales*>(__cvta_shared_to_generic(stages + p.floats.scales_at));
}

template <int kPlanes>
class GradientConverter {
 public:
  static constexpr int kThreads = kGradientConverterWarps * 32;

  static constexpr int kGuess = 0, kMeasure = 1, kLast = 2;  // what a block does all boxes for

  // A warp that takes boxes in turn has a stage of floats for itself: it waits for every phase of its barrier. So it
  // does for no barrier of the operands' stages, but there are as many of those at least, so that when it comes to one
  // the phase before the last is over.
  static_assert(kMaxFloatStages == kGradientConverterWarps);
  static __device__ int warps_of_box(const GradientParams& p) {
    return p.floats.stages < kGradientConverterWarps ? kGradientConverterWarps : 1;
  }

  // `again` is called after the last box: whether all roles of the block do all boxes once more.
  template <class Barriers, class F>
  static __device__ void run(const GradientParams& p, const GradientItem& item, uint32_t stages, const Barriers& bars,
                             int thread, F again) {
    GradientConverter convert(p, item, stages, thread);
    const int warp = thread / 32, lane = thread % 32;
    int from = 0, from_parity = 0, to = 0, to_parity = 1;
    for (int attempt = kGuess;; ++attempt) {
      for (int i = 0; i < item.boxes; ++i) {
        const uint32_t box = stages + p.floats.at + from * p.floats.stage_bytes;
        const bool guess = attempt == kGuess && i == 0;
        const bool mine = convert.together_ || from == warp;
        if (guess || mine) barrier_wait(shared_address(&bars.float_full[from]), from_parity);
        if (guess || (mine && attempt == kMeasure)) convert.measure(box, guess || convert.together_);
        if (guess) convert.take_scales(kTopExponent - kHeadroom);
        if (mine) {
          barrier_wait(shared_address(&bars.empty[to]), to_parity);
          convert.convert(box, stages + to * p.stage_bytes);
          fence_async_proxy();
          __syncwarp();
          if (lane == 0) {
            barrier_arrive(shared_address(&bars.full[to]));
            barrier_arrive(shared_address(&bars.float_empty[from]));
          }
        }
        if (++from == p.floats.stages) from = 0, from_parity ^= 1;
        if (++to == p.stages) to = 0, to_parity ^= 1;
      }
      if (attempt == kGuess) convert.judge();
      if (!again(attempt)) break;
      if (attempt == kMeasure) convert.take_scales(kTopExponent);
    }
  }

 private:
  static constexpr int kBarrier = 2;
  static constexpr int kHeadroom = 5;  // octaves above the first box's largest values
  static constexpr int kOfOthers = 8;  // of a channel that is zero there: octaves above the others' scale

  __device__ GradientConverter(const GradientParams& p, const GradientItem& item, uint32_t stages, int thread)
      : p_(p),
        scales_(gradient_scales(p, stages)),
        together_(warps_of_box(p) > 1),
        thread_(thread),
        parts_(__ldg(p.num_parts + item.tap_set)) {
    for (int i = thread; i < 2 * kSquare; i += kThreads) scales_.largest[i / kSquare][i % kSquare] = 0;
    if (thread == 0) scales_.again = 0;
    sync();
  }

  static __device__ void sync() { named_barrier(kBarrier, kThreads); }
  __device__ int width(int tensor) const { return tensor == 0 ? kSquare : p_.shape.width; }
  __device__ int channel(int tensor) const { return thread_ % (width(tensor) / 4) * 4; }  // the thread's first of four

  // Calls body(tensor, where floats begin, where halves do, from the first half to the second) for each box of a stage.
  template <class F>
  __device__ void for_boxes(uint32_t from, uint32_t to, F body) const {
    body(0, from, to, p_.a_plane);
#pragma unroll 1
    for (int part = 0; part < parts_; ++part)
      body(1, from + p_.floats.a_bytes + part * p_.floats.b_bytes, to + kPlanes * p_.a_plane + part * p_.b_bytes,
           p_.b_plane);
  }

  // Pixels that a lane reads at once, and of how many all lanes of a warp do; a swizzle begins anew after so many.
  static constexpr int kAtOnce = 4;
  template <int kWidth>
  static constexpr int kRows = 32 / (kWidth / 4);
  template <int kWidth>
  static constexpr int kBatch = kAtOnce * kRows<kWidth>;

  // Calls body(i, whether there is such a pixel, its four floats) for the pixels begin + i * kRows + the lane's own
  // row, i < kAtOnce, and all those some kBatch further, up to `end`, while the next ones are read. What a pixel takes
  // is instructions and latency: no branches, no addresses but constants away from the last one's.
  template <int kWidth, class F>
  __device__ void for_pixels(uint32_t from, int begin, int end, F body) const {
    constexpr int kPixel = kWidth * int(sizeof(float)), kOfPixel = kWidth / 4;
    const int row = thread_ % 32 / kOfPixel, rest = (end - begin) % kBatch<kWidth>;
    uint32_t at = from + (begin + row) * kPixel + thread_ % kOfPixel * 16;
    float4 v[kAtOnce];
    const auto read = [&] {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) v[i] = load_shared(at + i * kRows<kWidth> * kPixel);
      at += kBatch<kWidth> * kPixel;
    };
    int batches = (end - begin) / kBatch<kWidth>;
    if (batches > 0) read();
#pragma unroll 1
    while (batches > 0) {
      float4 now[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) now[i] = v[i];
      if (--batches > 0) read();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) body(i, std::true_type(), now[i]);
    }
    if (rest > 0) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        v[i] = load_shared(at + (min(row + i * kRows<kWidth>, rest - 1) - row) * kPixel);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) body(i, row + i * kRows<kWidth> < rest, v[i]);
    }
  }
  template <class F>
  __device__ void with_width(int tensor, F body) const {
    if (width(tensor) == kSquare) {
      body(std::integral_constant<int, kSquare>());
    } else if (kPlanes == 2 || width(tensor) == 32) {
      body(std::integral_constant<int, 32>());
    } else {
      body(std::integral_constant<int, 16>());
    }
  }
  // The warp's pixels of a box: where they begin, where swizzles do, and end.
  __device__ int2 share(int tensor, bool together) const {
    constexpr int kWarps = kGradientConverterWarps, kSwizzle = 8;
    const int pixels = tensor == 0 ? p_.floats.a_pixels : p_.floats.b_pixels, warp = thread_ / 32;
    if (!together) return {0, pixels};
    const auto begin = [&](int of) { return of == kWarps ? pixels : pixels * of / kWarps / kSwizzle * kSwizzle; };
    return {begin(warp), begin(warp + 1)};
  }

  __device__ void convert(uint32_t from, uint32_t to) {
    for_boxes(from, to, [&](int tensor, uint32_t floats, uint32_t halves, int plane_bytes) {
      const float4 scale = scale_[tensor];
      __half2 most = most_;
      with_width(tensor, [&](auto w) {
        constexpr int kWidth = decltype(w)::value, kRowBytes = kWidth * 2;
        const int2 range = share(tensor, together_);
        uint32_t to_row[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const uint32_t at = (thread_ % 32 / (kWidth / 4) + i * kRows<kWidth>)*kRowBytes + thread_ % (kWidth / 4) * 8;
          to_row[i] = halves + range.x * kRowBytes + (at ^ (at >> 7 & (kRowBytes / 16 - 1)) << 4);
        }
        for_pixels<kWidth>(floats, range.x, range.y, [&](int i, auto inside, float4 v) {
          uint2 words[kPlanes];
          to_halves(v, scale, words);
          most = __hmax2(most, __habs2(*reinterpret_cast<const __half2*>(&words[0].x)));
          most = __hmax2(most, __habs2(*reinterpret_cast<const __half2*>(&words[0].y)));
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane) {
            const uint32_t to = to_row[i] + plane * plane_bytes;
            if constexpr (std::is_same_v<decltype(inside), std::true_type>) {
              store_words(to, words[plane].x, words[plane].y);
            } else {
              store_words_if(inside, to, words[plane]);
            }
          }
          to_row[i] += kBatch<kWidth> * kRowBytes;
        });
      });
      most_ = most;
    });
  }

  // The largest finite magnitudes of a box, or, if all warps do it, of the warp's share.
  __device__ void measure(uint32_t box, bool together) {
    for_boxes(box, 0, [&](int tensor, uint32_t floats, uint32_t, int) {
      float4 most{};
      const int2 range = share(tensor, together);
      with_width(tensor, [&](auto w) {
        for_pixels<decltype(w)::value>(floats, range.x, range.y, [&](int, auto, float4 v) {
          most = {fmaxf(most.x, fabsf(v.x)), fmaxf(most.y, fabsf(v.y)), fmaxf(most.z, fabsf(v.z)),
                  fmaxf(most.w, fabsf(v.w))};
        });
        if (!isinf(fmaxf(fmaxf(most.x, most.y), fmaxf(most.z, most.w)))) return;
        most = {};
        for_pixels<decltype(w)::value>(floats, range.x, range.y, [&](int, auto, float4 v) { raise(most, v); });
      });
      const float of_channels[4] = {most.x, most.y, most.z, most.w};
#pragma unroll
      for (int j = 0; j < 4; ++j)
        atomicMax(&scales_.largest[tensor][channel(tensor) + j], __float_as_uint(of_channels[j]));
    });
  }

  // Brings the largest that has been found of each channel to 2^top.
  __device__ void take_scales(int top) {
    sync();
    const int tensor = thread_ / 32, lane = thread_ % 32;
    if (tensor < 2) {
      uint32_t* const largest = scales_.largest[tensor];
      const uint32_t of_lane[2] = {largest[lane], largest[lane + 32]};
      const float of_all = __uint_as_float(__reduce_max_sync(0xffffffff, max(of_lane[0], of_lane[1])));
      const int others = of_all > 0 ? min(exponent_to(top, of_all) + kOfOthers, kLargestExponent) : kLargestExponent;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float m = __uint_as_float(of_lane[i]);
        scales_.exponents[tensor][lane + i * 32] = m > 0 ? exponent_to(top, m) : others;
        largest[lane + i * 32] = 0;
      }
    }
    sync();
    for (int t = 0; t < 2; ++t) {
      const int* const e = scales_.exponents[t] + channel(t);
      scale_[t] = {ldexpf(1.f, e[0]), ldexpf(1.f, e[1]), ldexpf(1.f, e[2]), ldexpf(1.f, e[3])};
    }
  }

  __device__ void judge() {
    const float2 most = __half22float2(most_);
    if (isinf(most.x) || isinf(most.y)) scales_.again = 1;
  }

  const GradientParams& p_;
  GradientScales& scales_;
  const bool together_;
  const int thread_, parts_;
  float4 scale_[2];
  __half2 most_{};  // of what has been made
};

}  // namespace cks::cuda::hopper

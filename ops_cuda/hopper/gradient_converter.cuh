// Boxes of floats to the operands of the weight gradient, in shared memory: three warps turn what the producer has
// copied into halves, each channel scaled by a power of two.
//
// The scales come from the block's first box, with room for values some times as large as any there; a channel that is
// small there has room for what others have. Should a half become infinite all the same, all of the block is done
// again, to find the largest values, and then once more.
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

  // `again` is called after the last box: whether all roles of the block do all boxes once more.
  template <class Barriers, class F>
  static __device__ void run(const GradientParams& p, const GradientItem& item, uint32_t stages, const Barriers& bars,
                             int thread, F again) {
    GradientConverter convert(p, item, stages, thread);
    const bool first_lane = thread % 32 == 0;
    int from = 0, from_parity = 0, to = 0, to_parity = 1;
    for (int attempt = kGuess;; ++attempt) {
      for (int i = 0; i < item.boxes; ++i) {
        barrier_wait(shared_address(&bars.float_full[from]), from_parity);
        const uint32_t box = stages + p.floats.at + from * p.floats.stage_bytes;
        const bool guess = attempt == kGuess && i == 0;
        if (guess || attempt == kMeasure) convert.measure(box);
        if (guess) convert.take_scales(kTopExponent - kHeadroom);
        barrier_wait(shared_address(&bars.empty[to]), to_parity);
        convert.convert(box, stages + to * p.stage_bytes);
        fence_async_proxy();
        __syncwarp();
        if (first_lane) {
          barrier_arrive(shared_address(&bars.full[to]));
          barrier_arrive(shared_address(&bars.float_empty[from]));
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
  static constexpr int kOfOthers = 8;  // a channel's scale is at most so many octaves above the others'

  __device__ GradientConverter(const GradientParams& p, const GradientItem& item, uint32_t stages, int thread)
      : p_(p), scales_(gradient_scales(p, stages)), thread_(thread), parts_(__ldg(p.num_parts + item.tap_set)) {
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

  // Calls body(pixel, whether it is one of the box, its four floats) for the thread's share of a box, while the next
  // ones are read. No branches: what a pixel takes is mostly latency.
  template <int kWidth, class F>
  __device__ void for_pixels(uint32_t from, int pixels, F body) const {
    constexpr int kAtOnce = 4, kOfPixel = kWidth / 4, kRows = kThreads / kOfPixel;
    from += thread_ % kOfPixel * 16;
    int first = thread_ / kOfPixel;
    float4 v[kAtOnce];
    const auto read = [&] {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) v[i] = load_shared(from + min(first + i * kRows, pixels - 1) * (kWidth * 4));
    };
    read();
#pragma unroll 1
    while (first < pixels) {
      float4 now[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) now[i] = v[i];
      const int here = first;
      first += kAtOnce * kRows;
      read();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) body(here + i * kRows, here + i * kRows < pixels, now[i]);
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
  __device__ int pixels(int tensor) const { return tensor == 0 ? p_.floats.a_pixels : p_.floats.b_pixels; }

  __device__ void convert(uint32_t from, uint32_t to) {
    for_boxes(from, to, [&](int tensor, uint32_t floats, uint32_t halves, int plane_bytes) {
      const float4 scale = scale_[tensor];
      __half2 most = most_;
      with_width(tensor, [&](auto w) {
        constexpr int kWidth = decltype(w)::value, kRowBytes = kWidth * 2;
        const int column = thread_ % (kWidth / 4) * 8;
        for_pixels<kWidth>(floats, pixels(tensor), [&](int pixel, bool inside, float4 v) {
          uint2 words[kPlanes];
          to_halves(v, scale, words);
          most = __hmax2(most, __habs2(*reinterpret_cast<const __half2*>(&words[0].x)));
          most = __hmax2(most, __habs2(*reinterpret_cast<const __half2*>(&words[0].y)));
          const uint32_t at = pixel * kRowBytes + column;
          const uint32_t swizzled = halves + (at ^ (at >> 7 & (kRowBytes / 16 - 1)) << 4);
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane)
            store_words_if(inside, swizzled + plane * plane_bytes, words[plane]);
        });
      });
      most_ = most;
    });
  }

  // The largest finite magnitudes of a box.
  __device__ void measure(uint32_t box) {
    for_boxes(box, 0, [&](int tensor, uint32_t floats, uint32_t, int) {
      float4 most{};
      with_width(tensor, [&](auto w) {
        for_pixels<decltype(w)::value>(floats, pixels(tensor), [&](int, bool, float4 v) {
          most = {fmaxf(most.x, fabsf(v.x)), fmaxf(most.y, fabsf(v.y)), fmaxf(most.z, fabsf(v.z)),
                  fmaxf(most.w, fabsf(v.w))};
        });
        if (!isinf(fmaxf(fmaxf(most.x, most.y), fmaxf(most.z, most.w)))) return;
        most = {};
        for_pixels<decltype(w)::value>(floats, pixels(tensor), [&](int, bool, float4 v) { raise(most, v); });
      });
      const float all[4] = {most.x, most.y, most.z, most.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) atomicMax(&scales_.largest[tensor][channel(tensor) + j], __float_as_uint(all[j]));
    });
  }

  // Brings the largest that has been found of each channel to 2^top, if none of all asks for less.
  __device__ void take_scales(int top) {
    sync();
    const int tensor = thread_ / 32, lane = thread_ % 32;
    if (tensor < 2) {
      uint32_t* const largest = scales_.largest[tensor];
      const uint32_t of_lane[2] = {largest[lane], largest[lane + 32]};
      const float of_all = __uint_as_float(__reduce_max_sync(0xffffffff, max(of_lane[0], of_lane[1])));
      const int others = of_all > 0 ? exponent_to(top, of_all) + kOfOthers : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float m = __uint_as_float(of_lane[i]);
        scales_.exponents[tensor][lane + i * 32] = min(m > 0 ? min(exponent_to(top, m), others) : others, 126);
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
  const int thread_, parts_;
  float4 scale_[2];
  __half2 most_{};  // of what has been made
};

}  // namespace cks::cuda::hopper

// The Hopper weight gradient: each block sums its squares of dW over its boxes of pixels and leaves them in a
// workspace, from where a second kernel adds the parts, in order (gradient_passes.cu).
//
// A producer lane copies dY's and X's boxes to a ring of stages by TMA; what lies outside a tensor is filled with
// zeros, so that a box may hang over. Three math warpgroups multiply k-step by k-step: for each of its squares a team
// moves the descriptor of X by the tap's offset in the box. A box that hangs over an image's edge pairs the zeros there
// with real pixels of the other operand: an infinity among those gives NaN also for taps that do not meet it.
#pragma once
#include "ops_cuda/hopper/gradient_wgmma.cuh"
#include "ops_cuda/hopper/weight_gradient.h"

namespace cks::cuda::hopper {

template <class T, int kPlanes>
struct GradientKernel {
  static constexpr int kSlots = kPlanes == 1 ? 3 : 2, kSquares = kGradientTeams * kSlots;

  struct Barriers {
    uint64_t full[kMaxGradientStages], empty[kMaxGradientStages];
  };

  // The place and the image of a block's boxes, in turn.
  struct Walk {
    int place, image;
    __device__ Walk(const GradientItem& item) : place(item.place), image(item.image) {}
    __device__ void advance(const GradientParams& p, const GradientItem& item) {
      if (++place == item.num_places) place = 0, image += p.box_images;
    }
  };

  static __device__ void produce(const GradientParams& p, const GradientItem& item, uint32_t stages,
                                 const Barriers& bars) {
    const int num_k = min(p.tile_k, p.k_squares - item.k), num_c = min(p.tile_c, p.c_squares - item.c);
    const int num_parts = __ldg(p.num_parts + item.tap_set);
    const int bytes = kPlanes * (num_k * p.a_copied + num_parts * num_c * p.b_copied);
    const int4* const places = reinterpret_cast<const int4*>(p.places) + item.first_place;
    const int4* const parts = reinterpret_cast<const int4*>(p.parts) + item.tap_set * p.max_parts;
    const auto at = [&](int c, int d, int h, int w, int n) {
      return p.images_inner ? Coordinates{c, n, w, h, d} : Coordinates{c, w, h, d, n};
    };
    Walk walk(item);
    int4 place = __ldg(places + walk.place);
    for (int i = 0, stage = 0, parity = 1; i < item.boxes; ++i) {
      const int4 o = place;  // {d, h, w}
      const int n = walk.image;
      walk.advance(p, item);
      place = __ldg(places + walk.place);
      const uint32_t full = shared_address(&bars.full[stage]);
      uint32_t to = stages + stage * p.stage_bytes;
      barrier_wait(shared_address(&bars.empty[stage]), parity);
      barrier_expect(full, bytes);
      for (int plane = 0; plane < kPlanes; ++plane)
        for (int k = 0; k < num_k; ++k)
          copy_box(to + plane * p.a_plane + k * p.a_bytes, &p.dy, full,
                   at((item.k + k) * kSquare + plane * p.dy_plane, o.x, o.y, o.z, n));
      to += kPlanes * p.a_plane;
      for (int part = 0; part < num_parts; ++part) {
        const int4 first = __ldg(parts + part);
        for (int plane = 0; plane < kPlanes; ++plane)
          for (int c = 0; c < num_c; ++c)
            copy_box(to + plane * p.b_plane + (part * p.tile_c + c) * p.b_bytes, &p.x, full,
                     at((item.c + c) * kSquare + plane * p.x_plane, o.x * p.stride.d + first.x,
                        o.y * p.stride.h + first.y, o.z * p.stride.w + first.z, n));
      }
      if (++stage == p.stages) stage = 0, parity ^= 1;
    }
  }

  static __device__ void consume(const GradientParams& p, const GradientItem& item, uint32_t stages,
                                 const Barriers& bars) {
    const int team = __shfl_sync(0xffffffff, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
    GradientSlot slot[kSlots];
    uint32_t a[kSlots], b[kSlots];
    bool used[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int4* from = reinterpret_cast<const int4*>(p.slots + item.tap_set * kSquares + team * kSlots + s);
      reinterpret_cast<int4*>(&slot[s])[0] = __ldg(from);
      slot[s].partial = __ldg(reinterpret_cast<const int*>(from + 1));
      used[s] = slot[s].k >= 0 && item.k + slot[s].k < p.k_squares && item.c + slot[s].c < p.c_squares;
      a[s] = (stages >> 4) + slot[s].a, b[s] = (stages >> 4) + slot[s].b;
    }
    float acc[kSlots][32] = {};
    float total[kPlanes == 1 ? 1 : kSlots][32] = {};  // what was promoted
    const uint32_t* const masks = p.masks + int64_t(item.first_place) * kSquares + team * kSlots;
    uint32_t mask[kSlots], next[kSlots];
    const auto fetch = [&](int place) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) next[s] = used[s] ? __ldg(masks + place * kSquares + s) : 0;
    };
    Walk walk(item);
    fetch(walk.place);
    int stage = 0, parity = 0, last = -1;
    const auto release = [&](int which) {
      if (lane == 0) barrier_arrive(shared_address(&bars.empty[which]));
    };
#pragma unroll 1
    for (int i = 0; i < item.boxes; ++i) {
      uint32_t any = 0;
#pragma unroll
      for (int s = 0; s < kSlots; ++s) mask[s] = __shfl_sync(0xffffffff, next[s], 0), any |= mask[s];
      walk.advance(p, item);
      fetch(walk.place);
      barrier_wait(shared_address(&bars.full[stage]), parity);
      const uint32_t offset = stage * (p.stage_bytes >> 4);
      int fresh[kSlots];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) fresh[s] = kPlanes == 2;
      wgmma_fence();
#pragma unroll 1
      for (; any; any &= any - 1) {
        const int step = __ffs(any) - 1;
        const uint32_t at_a = offset + p.step_a[step], at_b = offset + p.step_b[step];
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          if (mask[s] >> step & 1) {
            const uint32_t low_a = a[s] + at_a, low_b = b[s] + at_b;
            const uint64_t da = transposed_descriptor(p.high_a, low_a), db = transposed_descriptor(p.high_b, low_b);
            if constexpr (kPlanes == 2) {
              wgmma_transposed<T>(acc[s], transposed_descriptor(p.high_a, low_a + (p.a_plane >> 4)), db, !fresh[s]);
              wgmma_transposed<T>(acc[s], da, transposed_descriptor(p.high_b, low_b + (p.b_plane >> 4)), 1);
              fresh[s] = 0;
            }
            wgmma_transposed<T>(acc[s], da, db, 1);
          }
        }
      }
      wgmma_commit();
      if constexpr (kPlanes == 1) {
        wgmma_wait<1>();
        if (last >= 0) release(last);
        last = stage;
      } else {
        // Tensor cores cut off what a sum cannot hold: short sums, and rounded additions of them, keep that small.
        wgmma_wait<0>();
        release(stage);
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          accumulators_changed(acc[s]);
          if (mask[s]) {
#pragma unroll
            for (int j = 0; j < 32; ++j) total[s][j] += acc[s][j];
          }
        }
      }
      if (++stage == p.stages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      accumulators_changed(acc[s]);
      if (!used[s]) continue;
      const float (&sum)[32] = kPlanes == 1 ? acc[s] : total[kPlanes == 1 ? 0 : s];
      const int64_t square =
          slot[s].partial + (int64_t(item.split) * p.k_squares + item.k + slot[s].k) * p.c_squares + item.c + slot[s].c;
      float4* const to = p.partials + square * (kSquare * kSquare / 4) + threadIdx.x % 128;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        __stcg(to + j * 128, make_float4(sum[j * 4], sum[j * 4 + 1], sum[j * 4 + 2], sum[j * 4 + 3]));
    }
  }
};

template <class T, int kPlanes>
__global__ void __launch_bounds__(kGradientBlockThreads, 1) hopper_gradient(const __grid_constant__ GradientParams p) {
  using Kernel = GradientKernel<T, kPlanes>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename Kernel::Barriers bars;
  const uint32_t stages = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  const GradientItem item = p.items[blockIdx.x];
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      barrier_init(shared_address(&bars.full[i]), 1);
      barrier_init(shared_address(&bars.empty[i]), kGradientMathThreads / 32);
    }
    barrier_init_fence();
    prefetch_map(&p.dy);
    prefetch_map(&p.x);
  }
  __syncthreads();
  // The next grid may set itself up while this one runs; this one touches nothing that the previous one wrote before it
  // ended.
  launch_dependents();
  wait_for_previous_grid();
  if (warp >= kGradientMathThreads / 32) {
    give_registers<32>();
    if (threadIdx.x == kGradientMathThreads) Kernel::produce(p, item, stages, bars);
  } else {
    take_registers<160>();
    Kernel::consume(p, item, stages, bars);
  }
}

}  // namespace cks::cuda::hopper

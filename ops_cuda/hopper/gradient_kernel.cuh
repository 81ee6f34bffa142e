// The Hopper weight gradient: each block sums its squares of dW over its boxes of pixels. Where all parts of a sum are
// in one cluster they go to dW at once (gradient_rows.cuh); else to a workspace, from where a second kernel adds the
// parts, in order (gradient_passes.cu).
//
// A producer lane copies dY's and X's boxes to a ring of stages by TMA; what lies outside a tensor is filled with
// zeros, so that a box may hang over. Three math warpgroups, the teams, multiply k-step by k-step: for each of its
// squares a team moves the descriptor of X by the tap's offset in the box. A box that hangs over an image's edge pairs
// the zeros there with real pixels of the other operand: an infinity among those gives NaN also for taps that do not
// meet it.
#pragma once
#include "ops_cuda/hopper/gradient_rows.cuh"
#include "ops_cuda/hopper/gradient_wgmma.cuh"
#include "ops_cuda/hopper/plan_words.cuh"

namespace cks::cuda::hopper {

template <class T, int kPlanes>
struct GradientKernel {
  static constexpr int kSlots = kPlanes == 1 ? 3 : 2, kSquares = kGradientTeams * kSlots;

  struct Barriers {
    uint64_t full[kMaxGradientStages], empty[kMaxGradientStages];
    uint64_t left, read;  // of a cluster: all blocks have left their sums, and have read the others'
  };

  // The place and the image of a block's boxes, in turn.
  struct Walk {
    int place, image;
    __device__ Walk(const GradientItem& item) : place(item.place), image(item.image) {}
    __device__ void advance(const GradientParams& p, const GradientItem& item) {
      if (++place == item.num_places) place = 0, image += p.box_images;
    }
  };

  // By the math warps, each some of them. Nothing is asked between them: one takes its warp some 60 cycles, unless a
  // lane makes several in a row.
  static __device__ void init(Barriers& bars, const GradientParams& p, int warp) {
    static_assert(kMaxGradientStages + 2 <= kGradientMathThreads / 32);
    if (elect_lane()) {
      if (warp < kMaxGradientStages) {
        barrier_init(bars.full[warp], 1), barrier_init(bars.empty[warp], kGradientMathThreads / 32);
      } else if (warp == kMaxGradientStages) {
        barrier_init(bars.left, p.sets * p.cluster_splits), barrier_init(bars.read, p.sets * p.cluster_splits);
      } else if (warp == kMaxGradientStages + 1) {
        prefetch_map(&p.dy);
        prefetch_map(&p.x);
      }
      barrier_init_fence();
    }
    __syncwarp();
  }

  // By a warp, one lane issuing every copy.
  static __device__ void produce(const GradientParams& p, const GradientItem& item, uint32_t stages,
                                 const Barriers& bars) {
    const bool elected = elect_lane();
    const int num_k = min(p.tile_k, p.k_squares - item.k), num_c = min(p.tile_c, p.c_squares - item.c);
    const int num_parts = __ldg(p.num_parts + item.tap_set);
    const int bytes = kPlanes * (num_k * p.a_copied + num_parts * num_c * p.b_copied);
    const int4* const places = reinterpret_cast<const int4*>(p.places) + item.first_place;
    // A lane has a part: nobody waits for one in the loop.
    const PlanWords parts = read_plan(p.parts + item.tap_set * p.max_parts + min(int(threadIdx.x % 32), num_parts - 1));
    const auto at = [&](int c, int d, int h, int w, int n) {
      return p.images_inner ? Coordinates{c, n, w, h, d} : Coordinates{c, w, h, d, n};
    };
    Walk walk(item);
    int4 place = __ldg(places + walk.place);
    wait_for_previous_grid();
    for (int i = 0, stage = 0, parity = 1; i < item.boxes; ++i) {
      const int4 o = place;  // {d, h, w}
      const int n = walk.image;
      walk.advance(p, item);
      place = __ldg(places + walk.place);
      const uint32_t full = shared_address(&bars.full[stage]);
      uint32_t to = stages + stage * p.stage_bytes;
      barrier_wait(shared_address(&bars.empty[stage]), parity);
      if (elected) barrier_expect(full, bytes);
#pragma unroll 1
      for (int k = 0; k < num_k; ++k) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          if (elected)
            copy_box(to + plane * p.a_plane + k * p.a_bytes, &p.dy, full,
                     at((item.k + k) * kSquare + plane * p.dy_plane, o.x, o.y, o.z, n));
      }
      to += kPlanes * p.a_plane;
#pragma unroll 1
      for (int part = 0; part < num_parts; ++part) {
        const auto first = from_lane<PlanWords>(parts, part);
#pragma unroll 1
        for (int c = 0; c < num_c; ++c) {
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane)
            if (elected)
              copy_box(to + plane * p.b_plane + (part * p.tile_c + c) * p.b_bytes, &p.x, full,
                       at((item.c + c) * p.width + plane * p.x_plane, o.x * p.stride.d + first.x,
                          o.y * p.stride.h + first.y, o.z * p.stride.w + first.z, n));
        }
      }
      if (++stage == p.stages) stage = 0, parity ^= 1;
    }
  }

  // A team's squares: where their operands begin, which of them are squares of dW at all.
  struct Team {
    GradientSlot slot[kSlots];
    uint32_t a[kSlots], b[kSlots];  // in 16 bytes
    bool used[kSlots];
    int index;
    __device__ Team(const GradientParams& p, const GradientItem& item, uint32_t stages)
        : index(__shfl_sync(0xffffffff, threadIdx.x / 128, 0)) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int4* from = reinterpret_cast<const int4*>(p.slots + item.tap_set * kSquares + index * kSlots + s);
        int4* to = reinterpret_cast<int4*>(&slot[s]);
        to[0] = __ldg(from), to[1] = __ldg(from + 1);
        used[s] = slot[s].k >= 0 && item.k + slot[s].k < p.k_squares && item.c + slot[s].c < p.c_squares;
        a[s] = (stages >> 4) + slot[s].a, b[s] = (stages >> 4) + slot[s].b;
      }
    }
    // Whether one wgmma does all of them.
    __device__ bool joined() const {
      bool all = slot[0].apart > 0;
#pragma unroll
      for (int s = 0; s < kSlots; ++s) all = all && used[s];
      return __shfl_sync(0xffffffff, all, 0);
    }
  };

  // Calls body(where the operands of a k-step begin) for each k-step of the mask; several in a row, so that their
  // addresses are there before they are needed.
  template <class F>
  static __device__ void for_steps(const GradientParams& p, uint32_t mask, F body) {
    constexpr int kAtOnce = 4;
    int left = __popc(mask);
    const auto next = [&] {
      const uint32_t step = p.steps[__ffs(mask) - 1];
      mask &= mask - 1;
      return step;
    };
#pragma unroll 1
    for (; left >= kAtOnce; left -= kAtOnce) {
      uint32_t step[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) step[i] = next();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) body(step[i] & 0xffff, step[i] >> 16);
    }
#pragma unroll 1
    for (; left > 0; --left) {
      const uint32_t step = next();
      body(step & 0xffff, step >> 16);
    }
  }

  using Sums = float[kSlots * 32];

  // kJoined: all squares of the team at once. kWidth: input channels of a square.
  template <bool kJoined, int kWidth>
  static __device__ void consume(const GradientParams& p, const GradientItem& item, const Team& team, uint32_t stages,
                                 const Barriers& bars) {
    constexpr int kCount = kJoined ? kSlots : 1;  // squares of a wgmma
    const int lane = threadIdx.x % 32;
    const uint32_t apart = kJoined ? __shfl_sync(0xffffffff, team.slot[0].apart, 0) : 0;
    Sums acc = {};
    float total[kPlanes == 1 ? 1 : kSlots * 32] = {};  // what was promoted
    const uint32_t* const masks = p.masks + int64_t(item.first_place) * kSquares + team.index * kSlots;
    uint32_t mask[kSlots], next[kSlots];
    const auto fetch = [&](int place) {
#pragma unroll
      for (int s = 0; s < kSlots; s += kCount) next[s] = team.used[s] ? __ldg(masks + place * kSquares + s) : 0;
    };
    Walk walk(item);
    fetch(walk.place);
    int stage = 0, parity = 0, last = -1;
    const auto release = [&](int which) {
      if (lane == 0) barrier_arrive(shared_address(&bars.empty[which]));
    };
#pragma unroll 1
    for (int i = 0; i < item.boxes; ++i) {
#pragma unroll
      for (int s = 0; s < kSlots; s += kCount) mask[s] = __shfl_sync(0xffffffff, next[s], 0);
      walk.advance(p, item);
      fetch(walk.place);
      barrier_wait(shared_address(&bars.full[stage]), parity);
      const uint32_t offset = stage * (p.stage_bytes >> 4);
      const auto a = [&](uint32_t low) { return transposed_descriptor(p.high_a, low); };
      const auto b = [&](uint32_t low) { return transposed_descriptor(p.high_b, low, apart); };
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < kSlots; s += kCount) {
        const uint32_t at_a = team.a[s] + offset, at_b = team.b[s] + offset;
        if constexpr (kPlanes == 2) {
          // The small products first: added to a large sum they would lose digits each time.
          int begun = 0;
          for_steps(p, mask[s], [&](uint32_t step_a, uint32_t step_b) {
            wgmma_transposed<T, kCount * kWidth>(acc, s, a(at_a + step_a + (p.a_plane >> 4)), b(at_b + step_b), begun);
            wgmma_transposed<T, kCount * kWidth>(acc, s, a(at_a + step_a), b(at_b + step_b + (p.b_plane >> 4)), 1);
            begun = 1;
          });
        }
        for_steps(p, mask[s], [&](uint32_t step_a, uint32_t step_b) {
          wgmma_transposed<T, kCount * kWidth>(acc, s, a(at_a + step_a), b(at_b + step_b), 1);
        });
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
        accumulators_changed(acc);
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          if (mask[kJoined ? 0 : s]) {
#pragma unroll
            for (int j = 0; j < 32; ++j) total[s * 32 + j] += acc[s * 32 + j];
          }
        }
      }
      if (++stage == p.stages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    accumulators_changed(acc);
    Sums& sums = *reinterpret_cast<Sums*>(kPlanes == 1 ? acc : total);
    if (!p.direct) {
      leave_squares(p, item, team, sums);
    } else if (kPlanes == 2 || p.dw_is_float) {
      store_rows<float, float>(p, item, team, sums, stages, bars);
    } else if (p.cluster_splits > 1) {
      store_rows<T, float>(p, item, team, sums, stages, bars);
    } else {
      store_rows<T, T>(p, item, team, sums, stages, bars);
    }
  }

  // The block's part of the sums, in accumulator order.
  static __device__ void leave_squares(const GradientParams& p, const GradientItem& item, const Team& team,
                                       const Sums& sums) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (!team.used[s]) continue;
      const GradientSlot& slot = team.slot[s];
      const int64_t square =
          slot.partial + (int64_t(item.split) * p.k_squares + item.k + slot.k) * p.c_squares + item.c + slot.c;
      float4* const to = p.partials + square * (kSquare * kSquare / 4) + threadIdx.x % 128;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float* const v = sums + s * 32 + j * 4;
        __stcg(to + j * 128, make_float4(v[0], v[1], v[2], v[3]));
      }
    }
  }

  // The block's sums in dW, with the other blocks of its cluster.
  template <class Out, class Staged>
  static __device__ void store_rows(const GradientParams& p, const GradientItem& item, const Team& team, Sums& sums,
                                    uint32_t shared, const Barriers& bars) {
    const GradientRows<Out, Staged> rows(p, item, shared);
    if (p.k_exponents) undo_scales(p, item, sums);
    named_barrier(1, kGradientMathThreads);  // nobody reads boxes any more
    if (!rows.whole()) rows.make_tables();
#pragma unroll
    for (int s = 0; s < kSlots; ++s)
      if (team.used[s]) rows.leave_square(sums, s * 32, item.tap_set, team.slot[s].order);
    meet(p, bars.left);
    rows.write();
    meet(p, bars.read);  // else a block could end while others read its sums
  }

  // The math threads of all blocks of a cluster. Each block has a barrier of its own for it, on which every block
  // arrives; the barrier that the hardware has for clusters would want the producers too.
  static __device__ void meet(const GradientParams& p, const uint64_t& barrier) {
    __syncwarp();
    named_barrier(1, kGradientMathThreads);
    const int blocks = p.sets * p.cluster_splits;
    if (blocks == 1) return;
    if (threadIdx.x < blocks) barrier_release_peer(peer_address(shared_address(&barrier), threadIdx.x));
    barrier_acquire_peers(shared_address(&barrier), 0);
  }

  // Of floats that were scaled.
  static __device__ void undo_scales(const GradientParams& p, const GradientItem& item, Sums& sums) {
    const int lane = threadIdx.x % 32, k = item.k * kSquare + threadIdx.x % 128 / 32 * 16 + lane / 4,
              c = item.c * p.width + lane % 4 * 2;
    int k_exponent[2], c_exponent[16];
#pragma unroll
    for (int i = 0; i < 2; ++i) k_exponent[i] = __ldcg(p.k_exponents + min(k + i * 8, p.K - 1));
#pragma unroll
    for (int i = 0; i < 16; ++i) c_exponent[i] = __ldcg(p.c_exponents + min(c + i / 2 * 8 + i % 2, p.C - 1));
#pragma unroll
    for (int i = 0; i < kSlots * 32; ++i)
      sums[i] = times_power(sums[i], -k_exponent[i % 4 / 2] - c_exponent[i % 32 / 4 * 2 + i % 2]);
  }
};

template <class T, int kPlanes>
__global__ void __launch_bounds__(kGradientBlockThreads, 1) hopper_gradient(const __grid_constant__ GradientParams p) {
  using Kernel = GradientKernel<T, kPlanes>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename Kernel::Barriers bars;
  const uint32_t stages = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), producer = kGradientMathThreads / 32;
  // The barriers are made, in all blocks that arrive on them. The next grid may set itself up while this one runs.
  const auto begin = [&] {
    if (p.sets * p.cluster_splits > 1) {
      cluster_arrive(), cluster_wait();
    } else {
      __syncthreads();
    }
    launch_dependents();
  };
  // Four warpgroups have 128 registers a thread; the sums want more.
  if (warp >= producer) {
    give_up_registers<32>();
    if (warp == producer) {
      // Learns what to copy first while others make the barriers. What is read up to the first copy is older than the
      // previous grid.
      const GradientItem item = p.items[blockIdx.x];
      begin();
      Kernel::produce(p, item, stages, bars);
    } else {
      begin();
    }
  } else {
    Kernel::init(bars, p, warp);
    begin();
    take_registers<160>();
    const GradientItem item = p.items[blockIdx.x];
    const typename Kernel::Team team(p, item, stages);
    wait_for_previous_grid();
    if (team.joined()) {
      Kernel::template consume<true, kSquare>(p, item, team, stages, bars);
    } else if (kPlanes == 1 && p.width == kNarrow) {
      Kernel::template consume<false, kNarrow>(p, item, team, stages, bars);
    } else {
      Kernel::template consume<false, kSquare>(p, item, team, stages, bars);
    }
  }
}

}  // namespace cks::cuda::hopper

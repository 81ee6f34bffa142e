// The Hopper weight gradient: each block sums its squares of dW over its boxes of pixels. Where all parts of a sum are
// in one cluster they go to dW at once (gradient_rows.cuh); else to a workspace, from where a second kernel adds the
// parts, in order (gradient_passes.cu).
//
// A producer lane copies dY's and X's boxes to a ring of stages by TMA; what lies outside a tensor is filled with
// zeros, so that a box may hang over. Three math warpgroups, the teams, multiply k-step by k-step: for each of its
// squares, or runs of them, a team moves the descriptor of X by the tap's offset in the box. A box that hangs over an
// image's edge pairs the zeros there with real pixels of the other operand: an infinity among those gives NaN also for
// taps that do not meet it.
//
// Of floats, blocks either get halves that a pass before has made (gradient_passes.cu), or copy boxes of floats and
// convert those themselves (gradient_converter.cuh): a launch less and each tensor read once, but every tile's own
// work.
#pragma once
#include "ops_cuda/hopper/gradient_converter.cuh"
#include "ops_cuda/hopper/gradient_rows.cuh"
#include "ops_cuda/hopper/gradient_wgmma.cuh"
#include "ops_cuda/hopper/plan_words.cuh"

namespace cks::cuda::hopper {

template <class T, int kPlanes, bool kFloats>
struct GradientKernel {
  static constexpr int kSlots = GradientOperands{kPlanes}.slots();  // squares of a team that are 64 channels wide

  struct Barriers {
    uint64_t full[kMaxGradientStages], empty[kMaxGradientStages];
    uint64_t float_full[kMaxFloatStages], float_empty[kMaxFloatStages];
    uint64_t multiplied;  // no team reads boxes any more
    uint64_t judged;      // of blocks that convert floats: all warps have done all boxes
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
    static_assert(kMaxGradientStages + 3 <= kGradientMathThreads / 32);
    const int converters = GradientConverter<kPlanes>::warps_of_box(p);
    if (elect_lane()) {
      if (warp < kMaxGradientStages) {
        barrier_init(bars.full[warp], kFloats ? converters : 1);
        barrier_init(bars.empty[warp], kGradientMathThreads / 32);
      } else if (warp == kMaxGradientStages) {
        barrier_init(bars.multiplied, kGradientMathThreads / 32);
        barrier_init(bars.left, p.sets * p.cluster_splits), barrier_init(bars.read, p.sets * p.cluster_splits);
      } else if (warp == kMaxGradientStages + 1) {
        prefetch_map(&p.dy);
        prefetch_map(&p.x);
      } else if (kFloats && warp == kMaxGradientStages + 2) {
#pragma unroll
        for (int i = 0; i < kMaxFloatStages; ++i)
          barrier_init(bars.float_full[i], 1), barrier_init(bars.float_empty[i], converters);
        barrier_init(bars.judged, kGradientBlockThreads / 32);
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
    constexpr int kCopies = kFloats ? 1 : kPlanes;
    const int bytes = kCopies * (num_k * p.a_copied + num_parts * num_c * p.b_copied);
    const uint64_t* const all_full = kFloats ? bars.float_full : bars.full;
    const uint64_t* const all_empty = kFloats ? bars.float_empty : bars.empty;
    const int ring_stages = kFloats ? p.floats.stages : p.stages;
    const int stage_bytes = kFloats ? p.floats.stage_bytes : p.stage_bytes;
    const int a_bytes = kFloats ? p.floats.a_bytes : p.a_bytes, b_bytes = kFloats ? p.floats.b_bytes : p.b_bytes;
    const uint32_t ring = stages + (kFloats ? p.floats.at : 0);
    const int4* const places = reinterpret_cast<const int4*>(p.places) + item.first_place;
    // A lane has a part: nobody waits for one in the loop.
    const PlanWords parts = read_plan(p.parts + item.tap_set * p.max_parts + min(int(threadIdx.x % 32), num_parts - 1));
    const auto at = [&](int c, int d, int h, int w, int n) {
      return p.images_inner ? Coordinates{c, n, w, h, d} : Coordinates{c, w, h, d, n};
    };
    wait_for_previous_grid();
    int stage = 0, parity = 1, attempt = 0;
    do {
      Walk walk(item);
      int4 place = __ldg(places + walk.place);
      for (int i = 0; i < item.boxes; ++i) {
        const int4 o = place;  // {d, h, w}
        const int n = walk.image;
        walk.advance(p, item);
        place = __ldg(places + walk.place);
        const uint32_t full = shared_address(&all_full[stage]);
        uint32_t to = ring + stage * stage_bytes;
        barrier_wait(shared_address(&all_empty[stage]), parity);
        if (elected) barrier_expect(full, bytes);
#pragma unroll 1
        for (int k = 0; k < num_k; ++k) {
#pragma unroll
          for (int plane = 0; plane < kCopies; ++plane)
            if (elected)
              copy_box(to + plane * p.a_plane + k * a_bytes, &p.dy, full,
                       at((item.k + k) * kSquare + plane * p.dy_plane, o.x, o.y, o.z, n));
        }
        to += kFloats ? a_bytes : kPlanes * p.a_plane;
#pragma unroll 1
        for (int part = 0; part < num_parts; ++part) {
          const auto first = from_lane<PlanWords>(parts, part);
#pragma unroll 1
          for (int c = 0; c < num_c; ++c) {
#pragma unroll
            for (int plane = 0; plane < kCopies; ++plane)
              if (elected)
                copy_box(to + plane * p.b_plane + (part * p.tile_c + c) * b_bytes, &p.x, full,
                         at((item.c + c) * p.shape.width + plane * p.x_plane, o.x * p.stride.d + first.x,
                            o.y * p.stride.h + first.y, o.z * p.stride.w + first.z, n));
          }
        }
        if (++stage == ring_stages) stage = 0, parity ^= 1;
      }
    } while (again(p, stages, bars, attempt++));
  }

  // After the last box: whether all warps of the block do all of them again (gradient_converter.cuh).
  static __device__ bool again(const GradientParams& p, uint32_t stages, const Barriers& bars, int attempt) {
    if (!kFloats || attempt == GradientConverter<kPlanes>::kLast) return false;
    const uint32_t judged = shared_address(&bars.judged);
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(judged);
    barrier_wait(judged, attempt % 2);
    return gradient_scales(p, stages).again;
  }

  // What a team does: kRuns runs of kJoin squares, each one wgmma.
  template <int kSquareWidth, int kJoinedTaps, int kRunsOfTeam>
  struct Shape {
    static constexpr int kWidth = kSquareWidth, kJoin = kJoinedTaps, kRuns = kRunsOfTeam;
    static constexpr int kColumns = kWidth * kJoin, kRunSums = kColumns / 2, kSums = kRuns * kRunSums;  // of a thread
  };

  // The squares of the warp's team, in its lanes.
  class Team {
   public:
    __device__ Team(const GradientParams& p, const GradientItem& item)
        : index(__shfl_sync(0xffffffff, threadIdx.x / 128, 0)) {
      const int lane = threadIdx.x % 32, at = min(lane, p.team_squares - 1);
      const GradientSlot* const from = p.slots + item.tap_set * p.squares + index * p.team_squares + at;
      low_ = read_plan(from), high_ = read_plan(reinterpret_cast<const PlanWords*>(from) + 1);
      const GradientSlot& slot = of_lane();
      used_ = __ballot_sync(0xffffffff, lane < p.team_squares && slot.k >= 0 && item.k + slot.k < p.k_squares &&
                                            item.c + slot.c < p.c_squares);
    }
    const int index;
    // Whether it is a square of dW; all lanes ask for the same one.
    __device__ bool used(int square) const { return used_ >> square & 1; }
    __device__ bool all_used(int squares) const { return used_ + 1 == 1u << squares; }
    __device__ GradientSlot operator[](int square) const {
      struct Halves {
        PlanWords low, high;
      };
      const Halves all{from_lane<PlanWords>(low_, square), from_lane<PlanWords>(high_, square)};
      return *reinterpret_cast<const GradientSlot*>(&all);
    }

   private:
    __device__ GradientSlot of_lane() const {
      const PlanWords all[2] = {low_, high_};
      return *reinterpret_cast<const GradientSlot*>(all);
    }
    PlanWords low_, high_;
    uint32_t used_;
  };

  // Calls body(where the operands of a k-step begin) for each k-step of the mask; several in a row, so that their
  // addresses are there before they are needed. Their products are a group each time, and then issued() is called: a
  // group that were left open until loops and branches end would be closed by an empty one behind it, and a wait for
  // all but the last group would be one for all products.
  template <class F, class G>
  static __device__ void for_steps(const GradientParams& p, uint32_t mask, F body, G issued) {
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
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) body(step[i] & 0xffff, step[i] >> 16);
      wgmma_commit();
      issued();
    }
#pragma unroll 1
    for (; left > 0; --left) {
      const uint32_t step = next();
      wgmma_fence();
      body(step & 0xffff, step >> 16);
      wgmma_commit();
      issued();
    }
  }

  template <class S>
  static __forceinline__ __device__ void consume(const GradientParams& p, const GradientItem& item, const Team& team,
                                                 uint32_t stages, const Barriers& bars) {
    const int lane = threadIdx.x % 32;
    uint32_t at_a[S::kRuns], at_b[S::kRuns], apart[S::kRuns];  // of the runs' operands, in 16 bytes
    bool live[S::kRuns];
#pragma unroll
    for (int r = 0; r < S::kRuns; ++r) {
      const GradientSlot slot = team[r * S::kJoin];
      live[r] = team.used(r * S::kJoin);
      at_a[r] = descriptor_low(stages) + slot.a, at_b[r] = descriptor_low(stages) + slot.b;
      apart[r] = S::kJoin > 1 ? slot.apart : 0;
    }
    float acc[S::kSums];
    float total[kPlanes == 1 ? 1 : S::kSums];  // what was promoted
    const uint32_t* const masks = p.masks + int64_t(item.first_place) * p.squares + team.index * p.team_squares;
    uint32_t mask[S::kRuns], next[S::kRuns];  // k-steps of each run
    const auto fetch = [&](int place) {
#pragma unroll
      for (int r = 0; r < S::kRuns; ++r) next[r] = live[r] ? __ldg(masks + place * p.squares + r * S::kJoin) : 0;
    };
    int stage = 0, parity = 0, attempt = 0;
    const auto release = [&](int which) {
      if (lane == 0) barrier_arrive(shared_address(&bars.empty[which]));
    };
    do {
#pragma unroll
      for (float& sum : acc) sum = 0;
#pragma unroll
      for (float& sum : total) sum = 0;
      Walk walk(item);
      fetch(walk.place);
      int last = -1;
#pragma unroll 1
      for (int i = 0; i < item.boxes; ++i) {
#pragma unroll
        for (int r = 0; r < S::kRuns; ++r) mask[r] = __shfl_sync(0xffffffff, next[r], 0);
        walk.advance(p, item);
        fetch(walk.place);
        barrier_wait(shared_address(&bars.full[stage]), parity);
        const uint32_t offset = stage * (p.stage_bytes >> 4);
        // A run's product, of one plane of each operand.
        const auto multiply = [&](int r, uint32_t step_a, uint32_t step_b, int accumulate) {
          wgmma_transposed<T, S::kColumns>(
              acc + r * S::kRunSums, transposed_descriptor(p.high_a, at_a[r] + offset + step_a),
              transposed_descriptor(p.high_b, at_b[r] + offset + step_b, apart[r]), accumulate);
        };
        // The box before this one can go once its products have ended, while some of this one's are under way.
        const auto release_last = [&] {
          if (last < 0) return;
          wgmma_wait<1>();
          release(last);
          last = -1;
        };
#pragma unroll
        for (int r = 0; r < S::kRuns; ++r) {
          const auto products = [&](uint32_t step_a, uint32_t step_b) { multiply(r, step_a, step_b, 1); };
          if constexpr (kPlanes == 1) {
            for_steps(p, mask[r], products, release_last);
          } else {
            // The small products first: added to a large sum they would lose digits each time.
            int begun = 0;
            const auto small_products = [&](uint32_t step_a, uint32_t step_b) {
              multiply(r, step_a + (p.a_plane >> 4), step_b, begun);
              multiply(r, step_a, step_b + (p.b_plane >> 4), 1);
              begun = 1;
            };
            for_steps(p, mask[r], small_products, [] {});
            for_steps(p, mask[r], products, [] {});
          }
        }
        if constexpr (kPlanes == 1) {
          if (last >= 0) {  // this team has no product in the box
            wgmma_wait<0>();
            release(last);
          }
          last = stage;
        } else {
          // Tensor cores cut off what a sum cannot hold: short sums, and rounded additions of them, keep that small.
          wgmma_wait<0>();
          release(stage);
          accumulators_changed(acc);
#pragma unroll
          for (int j = 0; j < S::kSums; ++j)
            if (mask[j / S::kRunSums]) total[j] += acc[j];
        }
        if (++stage == p.stages) stage = 0, parity ^= 1;
      }
      wgmma_wait<0>();
      accumulators_changed(acc);
      if (kPlanes == 1 && kFloats && last >= 0) release(last);
    } while (again(p, stages, bars, attempt++));
    float* const sums = kPlanes == 1 ? acc : total;
    if (kFloats) {
      const GradientScales& scales = gradient_scales(p, stages);
      undo_scales<S>([&](int k) { return scales.exponents[0][k]; }, [&](int c) { return scales.exponents[1][c]; },
                     sums);
    }
    if (!p.direct) {
      if constexpr (S::kWidth == kSquare) leave_squares<S>(p, item, team, sums);
    } else {
      if (!kFloats && p.k_exponents) {
        const int first_k = item.k * kSquare, first_c = item.c * S::kWidth;
        undo_scales<S>([&](int k) { return __ldcg(p.k_exponents + min(first_k + k, p.K - 1)); },
                       [&](int c) { return __ldcg(p.c_exponents + min(first_c + c, p.C - 1)); }, sums);
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&bars.multiplied));
      barrier_wait(shared_address(&bars.multiplied), 0);
      if (kPlanes == 2 || stages_floats(p)) {
        stage_squares<S>(GradientRows<float, float>(p, item, stages), item, team, sums);
      } else {
        stage_squares<S>(GradientRows<T, T>(p, item, stages), item, team, sums);
      }
    }
  }

  // Whether sums leave as floats: they are the result, or others are added to them.
  static __device__ bool stages_floats(const GradientParams& p) { return p.dw_is_float || p.cluster_splits > 1; }

  // The block's part of the sums, in accumulator order.
  template <class S>
  static __forceinline__ __device__ void leave_squares(const GradientParams& p, const GradientItem& item,
                                                       const Team& team, const float* sums) {
#pragma unroll
    for (int s = 0; s < S::kRuns * S::kJoin; ++s) {
      if (!team.used(s)) continue;
      const GradientSlot slot = team[s];
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

  template <class S, class Rows>
  static __forceinline__ __device__ void stage_squares(const Rows& rows, const GradientItem& item, const Team& team,
                                                       const float* sums) {
#pragma unroll
    for (int s = 0; s < S::kRuns * S::kJoin; ++s) {
      if (team.used(s)) rows.template leave_square<S::kWidth>(sums + s * (S::kWidth / 2), item.tap_set, team[s].order);
    }
  }

  // The sums that a block has staged go to dW, with those of the other blocks of its cluster.
  static __device__ void write_rows(const GradientParams& p, const GradientItem& item, uint32_t shared,
                                    const Barriers& bars) {
    const auto write = [&](const auto& rows) {
      if (!rows.whole()) rows.make_tables();
      meet(p, bars.left);
      rows.write();
      meet(p, bars.read);  // else a block could end while others read its sums
    };
    if (kPlanes == 2 || p.dw_is_float) {
      write(GradientRows<float, float>(p, item, shared));
    } else if (stages_floats(p)) {
      write(GradientRows<T, float>(p, item, shared));
    } else {
      write(GradientRows<T, T>(p, item, shared));
    }
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

  // Of floats that were scaled, by these powers: of the block's output and input channels.
  template <class S, class OfK, class OfC>
  static __forceinline__ __device__ void undo_scales(OfK of_k, OfC of_c, float* sums) {
    constexpr int kExponents = S::kWidth / 4;
    const int lane = threadIdx.x % 32, k = threadIdx.x % 128 / 32 * 16 + lane / 4, c = lane % 4 * 2;
    int k_exponent[2], c_exponent[kExponents];
#pragma unroll
    for (int i = 0; i < 2; ++i) k_exponent[i] = of_k(k + i * 8);
#pragma unroll
    for (int i = 0; i < kExponents; ++i) c_exponent[i] = of_c(c + i / 2 * 8 + i % 2);
#pragma unroll
    for (int i = 0; i < S::kSums; ++i)
      sums[i] = times_power(sums[i], -k_exponent[i % 4 / 2] - c_exponent[i % (S::kWidth / 2) / 4 * 2 + i % 2]);
  }

  // With the shape that the problem has, or as much of it as the team needs.
  static __forceinline__ __device__ void consume_any(const GradientParams& p, const GradientItem& item, uint32_t stages,
                                                     const Barriers& bars) {
    const Team team(p, item);  // older than the previous grid
    wait_for_previous_grid();
    const auto as = [&](auto shape) { consume<decltype(shape)>(p, item, team, stages, bars); };
    if (p.shape.width == kSquare) {
      if (team[0].apart > 0 && team.all_used(kSlots)) {
        as(Shape<kSquare, kSlots, 1>());
      } else {
        as(Shape<kSquare, 1, kSlots>());
      }
    } else if constexpr (kPlanes == 2) {
      as(Shape<32, 3, 1>());
    } else {
      int runs = 1;
      for (int r = 1; r < p.shape.runs; ++r) runs += team.used(r * p.shape.join);
      if (p.shape.width == 32) {
        if (p.shape.join == 3) {
          as(Shape<32, 3, 1>());
        } else if (runs == 2) {
          as(Shape<32, 2, 2>());
        } else {
          as(Shape<32, 2, 1>());
        }
      } else if (p.shape.join == 5) {
        if (runs == 2) {
          as(Shape<16, 5, 2>());
        } else {
          as(Shape<16, 5, 1>());
        }
      } else if (runs == 3) {
        as(Shape<16, 3, 3>());
      } else if (runs == 2) {
        as(Shape<16, 3, 2>());
      } else {
        as(Shape<16, 3, 1>());
      }
    }
  }
};

template <class T, int kPlanes, bool kFloats>
__global__ void __launch_bounds__(kGradientBlockThreads, 1) hopper_gradient(const __grid_constant__ GradientParams p) {
  using Kernel = GradientKernel<T, kPlanes, kFloats>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename Kernel::Barriers bars;
  const uint32_t stages = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), producer = kGradientMathThreads / 32;
  // The producer learns what to copy first while others make the barriers. What is read up to the first copy is older
  // than the previous grid.
  if (warp < producer) Kernel::init(bars, p, warp);
  const GradientItem item = p.items[blockIdx.x];
  // Of all blocks that arrive on them. The next grid may set itself up while this one runs.
  if (p.sets * p.cluster_splits > 1) {
    cluster_arrive(), cluster_wait();
  } else {
    __syncthreads();
  }
  launch_dependents();
  // Four warpgroups have 128 registers a thread; the sums want more, and who converts some.
  constexpr int kOthers = !kFloats ? 32 : kPlanes == 1 ? 104 : 80;
  if (warp >= producer) {
    give_up_registers<kOthers>();
    if (warp == producer) {
      Kernel::produce(p, item, stages, bars);
    } else if constexpr (kFloats) {
      GradientConverter<kPlanes>::run(p, item, stages, bars, int(threadIdx.x) - (producer + 1) * 32,
                                      [&](int attempt) { return Kernel::again(p, stages, bars, attempt); });
    }
  } else {
    take_registers<(512 - kOthers) / 3 / 8 * 8>();
    Kernel::consume_any(p, item, stages, bars);
    if (p.direct) Kernel::write_rows(p, item, stages, bars);
  }
}

}  // namespace cks::cuda::hopper

// One Hopper kernel for convolution, transposed convolution and dilated convolution: it walks the live taps of a work
// list.
//
// A block takes work items in order. For each k-block (128 bytes of channels of one tap) a producer lane copies two
// boxes to shared memory by TMA: A, the input pixels that the tile's rows read through this tap (what lies outside the
// input is filled with zeros), and B, the filter's channels. Math warpgroups multiply them (wgmma), then leave the tile
// in shared memory, from where TMA stores it; the store map's element strides interleave the phases of a transposed
// convolution. With `splits` > 1 the blocks of a cluster share a tile's k-blocks and add up through distributed shared
// memory, in a fixed order.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/hopper/hopper_conv.h"
#include "ops_cuda/hopper/wgmma.cuh"

namespace cks::cuda::hopper {

// A cluster's work items in order, the next one fetched while the current one is worked on: each lane holds a word of
// it.
class WorkReader {
 public:
  __device__ WorkReader(const Params& p, int cluster) : next_(p.items + cluster), pitch_(p.clusters) { fetch(); }
  // All lanes of a warp together. False past the last item.
  __device__ bool next(WorkItem& item) {
    int32_t* words = reinterpret_cast<int32_t*>(&item);
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = __shfl_sync(0xffffffff, word_, i);
    if (item.parts == 0) return false;
    fetch();
    return true;
  }

 private:
  static constexpr int kWords = sizeof(WorkItem) / 4;
  __device__ void fetch() {
    const int lane = threadIdx.x % 32;
    if (lane < kWords) word_ = __ldg(reinterpret_cast<const int32_t*>(next_) + lane);
    next_ += pitch_;
  }
  const WorkItem* next_;
  int pitch_;
  int32_t word_ = 0;
};

// A position in the ring of stages.
struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ void advance(int stages, int count) {
    const int at = stage + count;
    stage = at % stages;
    parity ^= at / stages & 1;
  }
};

template <class T, Team kTeam, int kRowBlocks, int BN, Curve kCurve>
struct HopperConv {
  static constexpr TileShape kShape{kTeam, kRowBlocks, BN};
  static constexpr int BM = kShape.bm(), kMathThreads = kShape.math_warpgroups() * 128, kThreads = kShape.threads();
  static constexpr int kTeamThreads = kTeam == Team::kShared ? 256 : 128;  // that work on one tile
  static constexpr int BK = 128 / int(sizeof(T));
  static constexpr int kABytes = BM * 128, kBBytes = BN * 128, kStageBytes = kABytes + kBBytes;
  static constexpr int kSlab = BN < BK ? BN : BK;            // channels of one store box
  static constexpr int kSlabBytes = kSlab * int(sizeof(T));  // its row, and its swizzle: 64 or 128
  static constexpr int kOutBytes = BM * BN * int(sizeof(T));
  // wgmma groups in flight: with one warpgroup nobody else fills the gap that draining leaves.
  static constexpr int kInFlight = kRowBlocks * BN >= 128 && kTeam != Team::kSolo ? 1 : 3;
  static constexpr bool kCanBeCut = kShape.can_be_cut();
  using Accumulators = float[kRowBlocks][BN / 2];

  struct Barriers {
    uint64_t full[kMaxStages], empty[kMaxStages], residual[2], turn[2], partial_ready, partial_read;
  };

  // ------------------------------------------------------------ the producer: one lane issues every copy
  static __device__ void produce(const Params& p, WorkReader work, uint32_t tiles, const Barriers& bars, int rank) {
    const int lane = threadIdx.x % 32;
    PipelineState s;
    WorkItem item;
    while (work.next(item)) {
      if (lane != 0) continue;
      const int total = item.hi - item.lo;
      const int lo = item.lo + total * rank / p.splits, hi = item.lo + total * (rank + 1) / p.splits;
      if (lo == hi) continue;
      const int4* tap_at = reinterpret_cast<const int4*>(p.taps + item.first_tap) + lo / p.channel_blocks;
      int c = lo % p.channel_blocks;
      int4 tap = __ldg(tap_at);  // {d, h, w, filter}
      for (int i = lo; i < hi; ++i) {
        const uint32_t a = tiles + s.stage * kStageBytes, full = shared_address(&bars.full[s.stage]);
        barrier_wait(shared_address(&bars.empty[s.stage]), s.parity ^ 1);
        barrier_expect(full, p.box_bytes + kBBytes);
        copy_box(a, &p.x, full, {c * BK, item.w + tap.z, item.h + tap.y, item.d + tap.x, item.n});
        copy_filter(a + kABytes, &p.filter, full, c * BK, item.k0, tap.w);
        if (++c == p.channel_blocks && i + 1 < hi) c = 0, tap = __ldg(++tap_at);
        s.advance(p.stages);
      }
    }
    __syncwarp();
  }

  // ------------------------------------------------------------ the main loop
  // Calls `last_block_seen` once this warpgroup has seen the last of its k-blocks arrive.
  template <class F>
  static __device__ void multiply(const Params& p, uint32_t a0, uint32_t b0, uint32_t full0, uint32_t empty0,
                                  PipelineState& s, int count, Accumulators& acc, F last_block_seen) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int j = 0; j < BN / 2; ++j) acc[m][j] = 0.f;
    const bool releaser = threadIdx.x % 32 == 0;
    const auto release = [&](int stage) {
      if (releaser) barrier_arrive(empty0 + stage * 8);
    };
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      barrier_wait(full0 + s.stage * 8, s.parity);
      const uint32_t a = a0 + s.stage * (kStageBytes >> 4), b = b0 + s.stage * (kStageBytes >> 4);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m)
          wgmma<T, BN>(acc[m], descriptor(a + m * (64 * 128 >> 4) + k * 2), descriptor(b + k * 2));
      wgmma_commit();
      wgmma_wait<kInFlight>();
      if (i >= kInFlight) release(s.stage >= kInFlight ? s.stage - kInFlight : s.stage - kInFlight + p.stages);
      s.advance(p.stages);
    }
    last_block_seen();
    wgmma_wait<0>();
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) accumulators_changed(acc[m]);
    for (int d = min(count, kInFlight); d > 0; --d) release(s.stage >= d ? s.stage - d : s.stage - d + p.stages);
  }

  // ------------------------------------------------------------ the epilogue
  // Eight sums of a thread, accumulator order: channels k, k + 1, k + 8, k + 9 of a row and of the row eight below it,
  // as {row: k, k + 1}, {row + 8: k, k + 1}, {row: k + 8, k + 9}, {row + 8: k + 8, k + 9}.
  static __device__ void add_bias(const Params& p, float (&v)[8], int k) {
    const T* bias = static_cast<const T*>(p.epilogue.bias);
    if (!bias) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = min(k + half * 8, p.K - 2);  // K is even; what lies beyond it is not stored
      const float b0 = to_float(bias[at]), b1 = to_float(bias[at + 1]);
      v[half * 4] += b0, v[half * 4 + 1] += b1, v[half * 4 + 2] += b0, v[half * 4 + 3] += b1;
    }
  }

  // Every piecewise linear activation by one formula, lest the code of each is inlined for every accumulator.
  static __device__ void apply(const Epilogue& e, float (&v)[8]) {
    if constexpr (kCurve == Curve::kAny) {
      activate(e, v);
    } else if (e.kind != ActivationKind::kNone) {
      const bool clip = e.kind == ActivationKind::kClip;
      const float slope = e.kind == ActivationKind::kLeakyRelu ? e.alpha : 1.f;
      const float low = clip                              ? e.alpha
                        : e.kind == ActivationKind::kRelu ? 0.f
                                                          : -INFINITY,
                  high = clip ? e.beta : INFINITY;
      for_all(v, [=](float x) { return clamp(x < 0.f ? slope * x : x, low, high); });
    }
  }

  // Where 16 bytes of a staged tile lie: slabs of kSlab channels, rows of kSlabBytes, in the swizzle of the store map.
  static __device__ uint32_t staged(uint32_t stage, int row, int chunk) {
    constexpr int kChunks = kSlabBytes / 16;
    const int swizzle = kSlabBytes == 128 ? row % 8 : row / 2 % 4;
    return stage + chunk / kChunks * (BM * kSlabBytes) + row * kSlabBytes + ((chunk % kChunks) ^ swizzle) * 16;
  }

  // Finishes one tile: adds bias and residual (which TMA has put where the tile goes), activates, rounds, and leaves it
  // staged.
  static __device__ void stage_tile(const Params& p, Accumulators& acc, uint32_t stage, int row0, int k0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int g = 0; g < BN / 16; ++g) {
        float (&v)[8] = *reinterpret_cast<float (*)[8]>(&acc[m][g * 8]);
        add_bias(p, v, k0 + g * 16 + lane % 4 * 2);
        if constexpr (sizeof(T) == 2) {
          const uint32_t at = staged(stage, row0 + m * 64 + lane % 16, g * 2 + lane / 16);
          uint32_t words[4];
          if (p.epilogue.residual) {
            float z[8];
            load_matrices(words, at);
            unpack<T>(words, z);
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] += z[i];
          }
          apply(p.epilogue, v);
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = pack_word(v + i * 2, static_cast<T*>(nullptr));
          store_matrices(at, words);
        } else {
          const auto at = [&](int i) {
            const int channel = g * 16 + i / 2 * 8 + lane % 4 * 2;
            return staged(stage, row0 + m * 64 + lane / 4 + i % 2 * 8, channel / 4) + channel % 4 * 4;
          };
          if (p.epilogue.residual) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 z = load_shared_pair(at(i));
              v[i * 2] += z.x, v[i * 2 + 1] += z.y;
            }
          }
          apply(p.epilogue, v);
#pragma unroll
          for (int i = 0; i < 4; ++i) store_shared(at(i), make_float2(v[i * 2], v[i * 2 + 1]));
        }
      }
    }
  }

  // Element offset of channel 0 of a tile row's output pixel, or -1 where the box hangs over the output.
  static __device__ int64_t pixel_offset(const Params& p, const WorkItem& t, int row) {
    const int w = row % p.box.w, h = row / p.box.w % p.box.h;
    const int nd = row / (p.box.w * p.box.h), d = nd % p.box.d, n = nd / p.box.d;
    const int on = t.n + n, od = t.out_d + d * p.out_step.d, oh = t.out_h + h * p.out_step.h,
              ow = t.out_w + w * p.out_step.w;
    if (n >= p.box_n || on >= p.N || od >= p.output.d || oh >= p.output.h || ow >= p.output.w) return -1;
    return (((int64_t(on) * p.output.d + od) * p.output.h + oh) * p.output.w + ow) * p.K;
  }

  // Leaves a part of a tile in the workspace. The block that does so last adds all parts, in order, and goes on with
  // their sum: nobody waits for anybody.
  static __device__ bool gather_parts(const Params& p, const WorkItem& t, Accumulators& acc, bool leader) {
    constexpr int kGroups = BN / 8;  // of four accumulators, in a row block
    const auto slot = [&](int part) { return p.partials + int64_t(t.slot + part) * (BM * BN / 4) + threadIdx.x; };
    float4* mine = slot(t.part);
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int j = 0; j < kGroups; ++j)
        __stcg(mine + (m * kGroups + j) * kTeamThreads,
               make_float4(acc[m][j * 4], acc[m][j * 4 + 1], acc[m][j * 4 + 2], acc[m][j * 4 + 3]));
    __threadfence();
    named_barrier(1, kTeamThreads);
    __shared__ int arrived;
    if (leader) {
      arrived = atomicInc(p.arrivals + t.counter, t.parts - 1);  // wraps: ready for the next launch
      __threadfence();
    }
    named_barrier(1, kTeamThreads);
    if (arrived != t.parts - 1) return false;
    constexpr int kAtOnce = 4;
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int j = 0; j < kGroups; j += kAtOnce) {
        float4 sum[kAtOnce] = {};
        for (int part = 0; part < t.parts; ++part) {
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const float4 v = __ldcg(slot(part) + (m * kGroups + j + i) * kTeamThreads);
            sum[i].x += v.x, sum[i].y += v.y, sum[i].z += v.z, sum[i].w += v.w;
          }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          float* to = acc[m] + (j + i) * 4;
          to[0] = sum[i].x, to[1] = sum[i].y, to[2] = sum[i].z, to[3] = sum[i].w;
        }
      }
    }
    return true;
  }

  // Adds the partial tiles of a cluster's blocks, in order, for this block's share of the channels, and stores them.
  static __device__ void reduce_over_cluster(const Params& p, const WorkItem& t, uint32_t partial, int rank) {
    constexpr int kUnits = BN / 16;  // of 16 channels
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
    const int64_t offset[2] = {pixel_offset(p, t, row), pixel_offset(p, t, row + 8)};
    for (int u = kUnits * rank / p.splits; u < kUnits * (rank + 1) / p.splits; ++u) {
      float v[8] = {};
      for (int peer = 0; peer < p.splits; ++peer) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float4 part = load_peer(peer_address(partial + ((u * 2 + half) * 128 + threadIdx.x) * 16, peer));
          v[half * 4] += part.x, v[half * 4 + 1] += part.y, v[half * 4 + 2] += part.z, v[half * 4 + 3] += part.w;
        }
      }
      const int k = t.k0 + u * 16 + lane % 4 * 2;
      add_bias(p, v, k);
      const auto pair = [&](const void* tensor, int i) {
        return static_cast<const T*>(tensor) + offset[i % 2] + k + i / 2 * 8;
      };
      const auto exists = [&](int i) { return offset[i % 2] >= 0 && k + i / 2 * 8 < p.K; };
      if (p.epilogue.residual) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!exists(i)) continue;
          v[i * 2] += to_float(pair(p.epilogue.residual, i)[0]);
          v[i * 2 + 1] += to_float(pair(p.epilogue.residual, i)[1]);
        }
      }
      apply(p.epilogue, v);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!exists(i)) continue;
        T* to = const_cast<T*>(pair(p.epilogue.y, i));
        to[0] = from_float<T>(v[i * 2]);
        to[1] = from_float<T>(v[i * 2 + 1]);
      }
    }
  }

  // ------------------------------------------------------------ the math warpgroups
  static __device__ void consume(const Params& p, WorkReader work, uint32_t tiles, const Barriers& bars, int rank) {
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), wg = warp / 4;  // the shuffle makes them uniform
    const bool alternate = kTeam == Team::kAlternate;
    const int team = alternate ? wg : 0, first_block = kTeam == Team::kShared ? wg * kRowBlocks : 0;
    const bool leader = threadIdx.x == team * 128;
    const uint32_t a0 = descriptor_low(tiles + first_block * 64 * 128), b0 = descriptor_low(tiles + kABytes);
    const uint32_t full0 = shared_address(bars.full), empty0 = shared_address(bars.empty);
    const uint32_t stage = tiles + p.stages * kStageBytes + team * kOutBytes,
                   residual_bar = shared_address(&bars.residual[team]);
    const int row0 = first_block * 64 + warp % 4 * 16;
    // Alternating warpgroups take turns at the main loop: the parity of a stage's barrier says nothing to one that
    // waits for a k-block more than a lap ahead.
    const auto wait_turn = [&](int use) {
      if (alternate && (team == 1 || use > 0)) barrier_wait(shared_address(&bars.turn[team]), (use - (team == 0)) & 1);
    };
    // By every warp: else one that is late could miss a phase that the other team has already followed by the next.
    const auto pass_turn = [&] {
      if (alternate && threadIdx.x % 32 == 0) barrier_arrive(shared_address(&bars.turn[team ^ 1]));
    };
    const auto sync_team = [&] { named_barrier(1 + team, kTeamThreads); };
    const auto for_slabs = [&](const WorkItem& t, auto body) {
      for (int c = 0; c < BN && t.k0 + c < p.K; c += kSlab)
        body(stage + c / kSlab * (BM * kSlabBytes), Coordinates{t.k0 + c, t.out_w, t.out_h, t.out_d, t.n});
    };

    // Waits until the last tile has left the stage, and asks for the residual to come there.
    const auto prepare_stage = [&](const WorkItem& t) {
      if (!leader) return;
      store_wait_read();
      if (!p.epilogue.residual) return;
      int slabs = 0;
      for_slabs(t, [&](uint32_t, Coordinates) { ++slabs; });
      barrier_expect(residual_bar, slabs * p.box_bytes / 128 * kSlabBytes);
      for_slabs(t, [&](uint32_t at, Coordinates c) { copy_box(at, &p.residual, residual_bar, c); });
    };

    PipelineState s;
    WorkItem t;
    int round = 0, residual_parity = 0;
    for (; work.next(t); ++round) {
      const int total = t.hi - t.lo;
      const int count = total * (rank + 1) / p.splits - total * rank / p.splits;
      if (alternate && round % 2 != team) {
        s.advance(p.stages, count);
        continue;
      }
      const int use = alternate ? round / 2 : round;  // of this team's stage and barriers
      Accumulators acc;
      if (p.splits == 1) {
        const bool cut = kCanBeCut && t.parts > 1;
        if (!cut) prepare_stage(t);  // while the main loop runs
        wait_turn(use);
        multiply(p, a0, b0, full0, empty0, s, count, acc, pass_turn);
        if constexpr (kCanBeCut) {
          if (cut) {
            if (!gather_parts(p, t, acc, leader)) continue;
            prepare_stage(t);
          }
        }
        sync_team();
        if (p.epilogue.residual) barrier_wait(residual_bar, residual_parity), residual_parity ^= 1;
        stage_tile(p, acc, stage, row0, t.k0);
        fence_async_proxy();
        sync_team();
        if (leader) {
          for_slabs(t, [&](uint32_t at, Coordinates c) { store_box(&p.y, at, c); });
          store_commit();
        }
      } else if constexpr (kTeam == Team::kSolo) {
        multiply(p, a0, b0, full0, empty0, s, count, acc, pass_turn);
        const uint32_t ready = shared_address(&bars.partial_ready), read = shared_address(&bars.partial_read);
        barrier_wait_cluster(read, (round & 1) ^ 1);  // every peer has read the last partial tile
#pragma unroll
        for (int j = 0; j < BN / 2; j += 4)
          store_shared(stage + (j / 4 * 128 + threadIdx.x) * 16,
                       make_float4(acc[0][j], acc[0][j + 1], acc[0][j + 2], acc[0][j + 3]));
        sync_team();
        if (threadIdx.x < p.splits) barrier_arrive_peer(peer_address(ready, threadIdx.x));
        barrier_wait_cluster(ready, round & 1);
        reduce_over_cluster(p, t, stage, rank);
        sync_team();
        if (threadIdx.x < p.splits) barrier_arrive_peer(peer_address(read, threadIdx.x));
      }
    }
    if (leader) store_wait_read();
  }
};

// Blocks an SM holds at most, for the compiler's register budget.
template <class C>
inline constexpr int kBlocksPerSm = C::kShape.row_blocks * C::kShape.bn * (C::kShape.math_warpgroups()) >= 256 ? 1 : 2;

template <class T, Team kTeam, int kRowBlocks, int BN, Curve kCurve>
__global__ void __launch_bounds__(HopperConv<T, kTeam, kRowBlocks, BN, kCurve>::kThreads,
                                  kBlocksPerSm<HopperConv<T, kTeam, kRowBlocks, BN, kCurve>>)
    hopper_conv(const __grid_constant__ Params p) {
  using C = HopperConv<T, kTeam, kRowBlocks, BN, kCurve>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename C::Barriers bars;
  const uint32_t tiles = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const int rank = p.splits > 1 ? int(cluster_rank()) : 0;
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);
  WorkReader work(p,
                  blockIdx.x / p.splits);  // the plan is older than the previous grid: its first item may be on its way
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
      barrier_init(shared_address(&bars.full[i]), 1);
      barrier_init(shared_address(&bars.empty[i]), C::kTeamThreads / 32);
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(shared_address(&bars.residual[i]), 1);
      barrier_init(shared_address(&bars.turn[i]), C::kTeamThreads / 32);
    }
    barrier_init(shared_address(&bars.partial_ready), p.splits);
    barrier_init(shared_address(&bars.partial_read), p.splits);
    barrier_init_fence();
    prefetch_map(&p.x);
    prefetch_map(&p.filter);
    prefetch_map(&p.y);
  }
  if (p.splits > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  // The next grid may set itself up while this one runs; this one touches nothing that the previous one wrote before it
  // ended.
  launch_dependents();
  wait_for_previous_grid();
  if (warp == C::kMathThreads / 32) {
    C::produce(p, work, tiles, bars, rank);
  } else {
    C::consume(p, work, tiles, bars, rank);
  }
  if (p.splits > 1) cluster_sync();  // peers may still read this block's shared memory
}

}  // namespace cks::cuda::hopper

// One Hopper kernel for convolution, transposed convolution and dilated convolution: it walks the live taps of a work
// list.
//
// A block takes work items in order. For each k-block (128 bytes of channels of one tap) a producer lane copies two
// boxes to shared memory by TMA: A, the input pixels that the tile's rows read through this tap (what lies outside the
// input is filled with zeros), and B, the filter's channels; or one A for several taps, a patch, whose floats a
// warpgroup of its own turns into halves (patch_converter.cuh). Floats may have become halves before the kernel
// (halve.h). Math warpgroups multiply them (wgmma) and leave the tile in shared memory, slab by slab of channels, from
// where a storer lane sends it by TMA while they go on; the store map's element strides interleave the phases of a
// transposed convolution. A tile's k-blocks may be in parts, which blocks leave for the one that stores it
// (tile_parts.cuh). With `splits` > 1 the blocks of a cluster share those of one tile, or of several, and add up
// through distributed shared memory (cluster_sum.cuh); the blocks of a pair share the pixels that they copy
// (boxes.cuh).
#pragma once
#include "ops_cuda/hopper/boxes.cuh"
#include "ops_cuda/hopper/cluster_sum.cuh"
#include "ops_cuda/hopper/main_loop.cuh"
#include "ops_cuda/hopper/patch_converter.cuh"
#include "ops_cuda/hopper/patches.cuh"
#include "ops_cuda/hopper/scales_of_x.cuh"
#include "ops_cuda/hopper/store_warp.cuh"
#include "ops_cuda/hopper/tile_parts.cuh"

namespace cks::cuda::hopper {

// The math warps: they multiply, and finish what they have.
template <class Tile>
struct MathWarps {
  using Ring = std::conditional_t<Tile::kSource == Source::kBoxes, BoxRing<Tile>, PatchRing<Tile>>;
  using Loop = MainLoop<Tile, Ring>;
  using Ending = TileEpilogue<Tile>;
  using Accumulators = typename Tile::Accumulators;
  using Barriers = typename Tile::Barriers;
  static constexpr int BN = Tile::BN, kRowBlocks = Tile::kRowBlocks, kTeamThreads = Tile::kTeamThreads;
  static constexpr bool kAlternate = Tile::kAlternate;
  static constexpr Team kTeam = Tile::kTeam;

  // make_ring(first row block, this lane's first row): of the tile.
  template <class F>
  static __device__ void consume(const Params& p, WorkReader work, F make_ring, uint32_t tiles, uint32_t stages,
                                 const Barriers& bars, int warp) {
    const int wg = warp / 4, team = kAlternate ? wg : 0, first_block = kTeam == Team::kShared ? wg * kRowBlocks : 0;
    const int lane = threadIdx.x % 32, row0 = first_block * 64 + warp % 4 * 16;
    Ring ring = make_ring(first_block, row0 + lane / 4);
    // Alternating warpgroups take turns at the main loop: the parity of a stage's barrier says nothing to one that
    // waits for a k-block more than a lap ahead.
    const auto wait_turn = [&](int use) {
      if (kAlternate && (team == 1 || use > 0)) barrier_wait(shared_address(&bars.turn[team]), (use - (team == 0)) & 1);
    };
    // By every warp: else one that is late could miss a phase that the other team has already followed by the next.
    const auto pass_turn = [&] {
      if (kAlternate && lane == 0) barrier_arrive(shared_address(&bars.turn[team ^ 1]));
    };

    // Past the other team's tile, if there is one.
    const auto skip_tile = [&] {
      if (!work.next()) return;
      ring.skip(work);
      work.fetch_next();
    };

    wait_for_previous_grid();
    const bool plain = Ending::is_plain(p.epilogue);
    PipelineState slab_at;
    if (kAlternate && team == 1) skip_tile();
    for (int turn = 0; work.next(); ++turn) {
      work.fetch_next();
      const auto sum = work.sum();
      const int count = sum.hi - sum.lo;
      const typename Ending::Affines affines(p, sum.k0);
      Accumulators acc;
      ring.begin(p, work);
      wait_turn(turn);
      if constexpr (Tile::kSource == Source::kPatches) {
        const ScalesOfX<Tile> scales(p, work, row0 + lane / 4);
        Loop::multiply_patches(ring, count, acc, pass_turn);
        scales.undo(acc);
      } else if constexpr (Tile::kThroughRegisters) {
        Loop::multiply_floats(ring, count, p.stages, row0 + lane / 4, p.box_bytes / 128, 3 + wg, acc, pass_turn);
      } else {
        const ScalesOfX<Tile> scales(p, work, row0 + lane / 4);
        Loop::multiply(ring, count, acc, pass_turn);
        scales.undo(acc);
      }
      if constexpr (Tile::kCanBeSplit) {
        if (p.splits > 1) {
          const ClusterSum<Tile> cluster(work.part().sharers, stages, bars);
          cluster.add_up(p, {sum, work.input(), work.output()}, acc, affines);
          return;
        }
      }
      if constexpr (Tile::kCanBeCut) {
        if (sum.parts == WorkItem::kPart) {
          TileParts<Tile>::leave(acc, stages, bars, slab_at);
          continue;
        }
        TileParts<Tile>::add_others(ring, tiles, sum.parts - 1, acc);
      }
      if constexpr (kAlternate) skip_tile();  // so that this team's next item is there when its tile is staged
      if (plain) {
        Ending::template stage_tile<true>(p, sum.k0, acc, stages, bars, team, slab_at, row0, affines);
      } else {
        Ending::template stage_tile<false>(p, sum.k0, acc, stages, bars, team, slab_at, row0, affines);
      }
    }
  }
};

template <class Math, Team kTeam, int kRowBlocks, int BN, Curve kCurve, Source kSource>
__global__ void __launch_bounds__(
    TileShape{kTeam, kRowBlocks, BN, kCurve, kSource}.threads(sizeof(typename Math::Input)),
    TileShape{kTeam, kRowBlocks, BN}.max_blocks_per_sm(Math::kProducts)) hopper_conv(const __grid_constant__ Params p) {
  using Tile = TileTraits<Math, kTeam, kRowBlocks, BN, kCurve, kSource>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename Tile::Barriers bars;
  const uint32_t tiles = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const uint32_t patches = tiles + p.stages * Tile::kStageBytes;
  const uint32_t stages = patches + (kSource == Source::kPatches ? p.patch_stages * p.patch_pitch : 0);
  WorkReader work(p);                                             // the plan is older than the previous grid
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the shuffle makes it uniform
  const bool in_cluster = p.splits > 1 || p.pairs;
  // Who makes barriers, the math warps and the first that stores, tells each role of it; what the whole block waited at
  // it would have to reach by one way. Of a cluster: barriers are there for whoever has waited for it.
  constexpr int kForCopies = 12, kForStores = 13, kForMath = 14, kForConverters = 15;
  constexpr int kMakers = (Tile::kMathWarps + 1) * 32;
  constexpr int kCopyThreads = kMakers + 32, kStoreThreads = Tile::kMathWarps * 32 + Tile::kTeams * 32;
  constexpr int kConverterThreads = kMakers + (Tile::kConverts ? Tile::kConverterWarps * 32 : 0);
  // The next grid may set itself up while this one runs. Each role waits for the previous one before it touches what
  // that may have written or may still read.
  const int role = warp - Tile::kMathWarps;
  if (role < 0) {
    Tile::init_by_math_warp(bars, p, warp);
    if (in_cluster) cluster_arrive();
    named_barrier_arrive(kForCopies, kCopyThreads);
    named_barrier_arrive(kForStores, kStoreThreads);
    if constexpr (Tile::kConverts) named_barrier_arrive(kForConverters, kConverterThreads);
    named_barrier(kForMath, kMakers);
    launch_dependents();
    if constexpr (Tile::kTakesRegisters) take_registers<224>();
    const auto make_ring = [&](int first_block, int row) {
      if constexpr (kSource == Source::kBoxes) return BoxRing<Tile>(p, tiles, bars, first_block, row);
      if constexpr (kSource == Source::kPatches) return PatchRing<Tile>(p, tiles, patches, bars, first_block);
    };
    if (in_cluster) cluster_wait();
    MathWarps<Tile>::consume(p, work, make_ring, tiles, stages, bars, warp);
  } else {
    if constexpr (Tile::kTakesRegisters) give_up_registers<56>();
    if (role == 0) {
      // Learns what to copy first while others make the barriers.
      if (elect_lane()) {
        prefetch_map(&p.filter);
        prefetch_map(&p.x);
      }
      __syncwarp();
      work.next();
      if (in_cluster) cluster_arrive();
      named_barrier(kForCopies, kCopyThreads);
      if constexpr (kSource == Source::kBoxes) {
        BoxProducer<Tile>::run(p, work, tiles, bars);
      } else {
        PatchProducer<Tile>::run(p, work, tiles, patches, bars);
      }
    } else {
      if (role == 1) {
        Tile::init_by_storer(bars);
        named_barrier_arrive(kForCopies, kCopyThreads);
        named_barrier_arrive(kForMath, kMakers);
        if constexpr (Tile::kConverts) named_barrier_arrive(kForConverters, kConverterThreads);
        if (elect_lane()) {
          if (p.x_blocks < p.channel_blocks) prefetch_map(&p.x2);
          prefetch_map(&p.y);
        }
      }
      if (in_cluster) cluster_arrive();
      if (role <= Tile::kTeams) named_barrier(kForStores, kStoreThreads);
      if constexpr (Tile::kConverts)
        if (role >= 4) named_barrier(kForConverters, kConverterThreads);
      launch_dependents();
      if (in_cluster) cluster_wait();
      if constexpr (Tile::kConverts) {
        if (role >= 4) PatchConverter<Tile>::run(p, work, patches, bars, role - 4);
      }
      if (role <= Tile::kTeams && p.splits == 1)
        StoreWarp<Tile>::run(p, work, stages + (role - 1) * Tile::kStagedBytes, bars, role - 1);
    }
  }
  // No block of a pair may end while the other still copies to it, or tells it what is free.
  if (Tile::kCanPair && p.pairs) {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  }
}

}  // namespace cks::cuda::hopper

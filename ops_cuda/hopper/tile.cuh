// What the parts of the Hopper kernel share: the sizes that follow from a tile's shape and from what is multiplied, and
// the barriers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ops_cuda/hopper/hopper_conv.h"
#include "ops_cuda/hopper/ptx.cuh"

namespace cks::cuda::hopper {

// What is multiplied, and how: the type of Y, the products that a multiply-add takes, and what the kernel reads X as,
// which is the same type but where halves were made of floats before it. Floats are multiplied as halves (halves.cuh).
template <class T, int kCount, class OfX = T>
struct Multiplication {
  using Element = T;
  using Input = OfX;
  static constexpr int kProducts = kCount;
};
using HalfMath = Multiplication<__half, 1>;
using BFloat16Math = Multiplication<__nv_bfloat16, 1>;
using TF32Math = Multiplication<float, 1>;
using HalvedMath = Multiplication<float, 1, __half>;
using FP32Math = Multiplication<float, 3>;

template <class MathOfTile, Team kTeamOfTile, int kRowBlocksOfTile, int kColumns, Curve kCurveOfTile,
          Source kSourceOfTile>
struct TileTraits {
  using Math = MathOfTile;
  static constexpr Team kTeam = kTeamOfTile;
  static constexpr int kRowBlocks = kRowBlocksOfTile, BN = kColumns;
  static constexpr Curve kCurve = kCurveOfTile;
  static constexpr Source kSource = kSourceOfTile;
  using T = typename Math::Element;
  using Input = typename Math::Input;
  static constexpr TileShape kShape{kTeam, kRowBlocks, BN, kCurve, kSource};
  static constexpr int BM = kShape.bm(), kMathWarps = kShape.math_warpgroups() * 4;
  static constexpr int kTeamThreads = kTeam == Team::kShared ? 256 : 128;  // that work on one tile
  static constexpr bool kAlternate = kTeam == Team::kAlternate;
  static constexpr int kTeams = kAlternate ? 2 : 1;
  static constexpr bool kSplit = Math::kProducts > 1;
  // Of floats, halves are made by the warps that multiply them, in shared memory by warps of their own, or before the
  // kernel; the filter's have a scale for each output channel in any case.
  static constexpr bool kFilterHasScales = sizeof(T) == 4, kHalved = kFilterHasScales && sizeof(Input) == 2;
  static constexpr bool kConverts = kShape.converts(sizeof(Input));
  static constexpr bool kThroughRegisters = sizeof(Input) == 4 && !kConverts;
  static constexpr int kConverterWarps = 4;
  static constexpr int BK = 128 / int(sizeof(Input));
  static constexpr int kFilterRow = filter_row(sizeof(Input), Math::kProducts), kFilterRowBytes = kFilterRow * 2;
  static constexpr bool kAsksForHalf = kShape.asks_for_half(sizeof(Input));
  static constexpr int kABytes = kSource == Source::kBoxes ? BM * 128 : 0, kBBytes = BN * kFilterRowBytes,
                       kStageBytes = kABytes + kBBytes;  // of the ring of k-blocks
  // Weights that are older than the previous grid may come while it still runs; but few k-blocks of them, because the
  // first pixels queue up behind them. Wide tiles that are shared gain by twice as many, others gain little or lose
  // (measured).
  static __device__ int most_ahead(const Params& p) {
    constexpr int kAhead = (32 << 10) / kBBytes;
    return kCanBeSplit && BN > 64 && p.splits > 1 ? 2 * kAhead : kAhead;
  }
  static constexpr int kSlab = kShape.slab(sizeof(T));       // channels of one store box
  static constexpr int kSlabs = BN / kSlab;                  // of a tile
  static constexpr int kSlabBytes = kSlab * int(sizeof(T));  // a row's, and its swizzle: 64 or 128
  static constexpr int kStaged = kShape.staged_slabs(sizeof(T));
  static constexpr int kStagedBytes = kStaged * BM * kSlabBytes;
  // wgmma groups in flight: with one warpgroup nobody else fills the gap that draining leaves.
  static constexpr int kInFlight = kRowBlocks * BN >= 128 && kTeam != Team::kSolo ? 1 : 3;
  static constexpr bool kCanBeCut = kShape.can_be_cut(), kCanBeSplit = kShape.can_be_split(),
                        kCanPair = kShape.can_pair(sizeof(Input));
  // Twelve warps have 168 registers each, unless those that copy give some up.
  static constexpr bool kTakesRegisters =
      sizeof(T) == 4 && kTeam != Team::kSolo && kRowBlocks * BN * Math::kProducts >= 192;
  using Accumulators = float[kRowBlocks][BN / 2];

  static constexpr int kRing = kSource == Source::kBoxes ? kMaxStages : kMaxFilterStages;
  struct Barriers {
    uint64_t full[kRing], empty[kRing];  // of the ring of k-blocks
    uint64_t patch_full[kMostPatchStages], patch_empty[kMostPatchStages];
    // Where patches are converted (patch_converter.cuh).
    uint64_t patch_ready[kMostPatchStages], patch_again;
    float patch_scale[kMostPatchStages];
    unsigned largest[2][kConverterWarps];                      // of each warp: what it has seen last
    uint64_t ready[kTeams][kStaged], staged[kTeams][kStaged];  // of the rings of slabs
    uint64_t turn[2], inbox_full;
  };

  // Barriers, as many as a kernel of this shape may have: by warps that have nothing else to do yet. One takes some 60
  // cycles, unless a lane makes several in a row; so nothing is asked between them.
  //
  // By the warps that multiply: four of them make the rings', others those of slabs.
  static __device__ void init_by_math_warp(Barriers& bars, const Params& p, int warp) {
    constexpr int kEach = kRing / kMakers;
    static_assert(kRing % kMakers == 0 && kMostPatchStages == kMakers);
    const int releases = kTeamThreads / 32 * (kCanPair && p.pairs ? 2 : 1);
    if (elect_lane()) {
      if (warp < kMakers) {
#pragma unroll
        for (int i = 0; i < kEach; ++i)
          barrier_init(bars.full[warp * kEach + i], 1), barrier_init(bars.empty[warp * kEach + i], releases);
        if (kSource == Source::kPatches)
          barrier_init(bars.patch_full[warp], 1), barrier_init(bars.patch_empty[warp], kTeamThreads / 32);
        if (kConverts) barrier_init(bars.patch_ready[warp], kConverterWarps);
      } else {
        init_slabs(bars, warp - kMakers, kMathWarps - kMakers);
      }
      barrier_init_fence();
    }
    __syncwarp();
  }
  // By one of the others.
  static __device__ void init_by_storer(Barriers& bars) {
    if (elect_lane()) {
      if (kMathWarps == kMakers) init_slabs(bars, 0, 1);
      if (kAlternate) barrier_init(bars.turn[0], kTeamThreads / 32), barrier_init(bars.turn[1], kTeamThreads / 32);
      if (kCanBeSplit) barrier_init(bars.inbox_full, 1);
      if (kConverts) barrier_init(bars.patch_again, 1);
      barrier_init_fence();
    }
    __syncwarp();
  }

 private:
  static constexpr int kMakers = 4;
  static __device__ void init_slabs(Barriers& bars, int first, int step) {
    for (int i = first; i < kTeams * kStaged; i += step)
      barrier_init((&bars.ready[0][0])[i], 1), barrier_init((&bars.staged[0][0])[i], kTeamThreads / 32);
  }
};

}  // namespace cks::cuda::hopper

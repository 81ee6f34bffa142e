// The main loop of the math warpgroups: a tile's k-blocks, or its part of them, into accumulators.
#pragma once
#include "ops_cuda/hopper/halves.cuh"
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

// Ring: BoxRing or PatchRing.
template <class Tile, class Ring>
struct MainLoop {
  using Accumulators = typename Tile::Accumulators;
  static constexpr int BN = Tile::BN, kRowBlocks = Tile::kRowBlocks, kFilterRowBytes = Tile::kFilterRowBytes,
                       kInFlight = Tile::kInFlight;
  static constexpr bool kSplit = Tile::kSplit;

  static __device__ void clear(Accumulators& acc) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int j = 0; j < BN / 2; ++j) acc[m][j] = 0.f;
  }
  static __device__ void changed(Accumulators& acc) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) accumulators_changed(acc[m]);
  }

  // Both operands from shared memory. Calls `last_block_seen` once this warpgroup has seen the last of its k-blocks
  // arrive.
  template <class F>
  static __device__ void multiply(Ring& ring, int count, Accumulators& acc, F last_block_seen) {
    clear(acc);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      ring.wait();
      if (Tile::kAsksForHalf && ring.is_half()) {
        issue(kHalfOfSteps, ring.operands(), acc);
      } else {
        issue(kAllSteps, ring.operands(), acc);
      }
      wgmma_wait<kInFlight>();
      if (i >= kInFlight) ring.release(kInFlight);
      ring.advance();
    }
    last_block_seen();
    wgmma_wait<0>();
    changed(acc);
    ring.release_last(min(count, kInFlight));
  }

  // The same, of patches. Those that are converted have a scale, which the sums take on while they are made.
  template <class F>
  static __device__ void multiply_patches(Ring& ring, int count, Accumulators& acc, F last_block_seen) {
    clear(acc);
    float scale = 1;
    bool any = false;  // whether something has been multiplied that has not been released
    for (int left = count; left > 0;) {
      int taps = ring.begin_patch();
      left -= taps;
      if constexpr (Tile::kConverts) {
        const float coming = ring.scale();
        if (any && coming != scale) {
          wgmma_wait<0>();
          changed(acc);
          scale_all(acc, coming * inverse_of(scale));
        }
        scale = coming;
      }
      const auto multiply_patch = [&](auto steps) {
        ring.fetch();
        ring.wait();
        issue(steps, ring.operands(), acc);
        wgmma_wait<1>();
        if (any) {
          if (!ring.filter_stays()) ring.release();
          ring.release_patch();
        }
        any = true;
        ring.advance();
        if (ring.filter_stays()) {
          // Nothing but a patch is ever free again: the tensor cores' queue is not drained before the next one begins.
#pragma unroll 1
          while (--taps > 0) {
            ring.fetch();
            ring.wait();
            issue(steps, ring.operands(), acc);
            ring.advance();
          }
        } else {
#pragma unroll 1
          while (--taps > 0) {
            ring.fetch();
            ring.wait();
            issue(steps, ring.operands(), acc);
            wgmma_wait<1>();
            ring.release();
            ring.advance();
          }
        }
      };
      if (Tile::kAsksForHalf && ring.is_half()) {
        multiply_patch(kHalfOfSteps);
      } else {
        multiply_patch(kAllSteps);
      }
      ring.end_patch();
    }
    ring.seen(count);
    last_block_seen();
    wgmma_wait<0>();
    changed(acc);
    if constexpr (Tile::kConverts) scale_all(acc, inverse_of(scale));
    if (any) {
      if (!ring.filter_stays()) ring.release();
      ring.release_patch();
    }
  }

  // Steps of 16 channels in a k-block.
  template <int kCount>
  using Steps = std::integral_constant<int, kCount>;
  static constexpr Steps<kFilterRowBytes / 32> kAllSteps{};
  static constexpr Steps<kFilterRowBytes / 64> kHalfOfSteps{};

  // The products of a k-block, or of its first half. (A group begins and ends in each branch that issues it: where
  // branches meet ptxas would make groups of its own.)
  template <int kCount, class Operands>
  static __device__ void issue(Steps<kCount>, const Operands& at, Accumulators& acc) {
    using Operand = std::conditional_t<Tile::kConverts, __half, typename Tile::Input>;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kCount; ++k)
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m)
        wgmma<Operand, BN>(acc[m], at.a(m, k), descriptor<kFilterRowBytes>(at.b + k * 2));
    wgmma_commit();
  }

  // A through registers, as halves: what comes next is converted while the current k-blocks are multiplied. Where their
  // rows outgrow their scales, what is under way is finished first.
  //
  // first_row: this lane's; of the tile's rows `pixels` are pixels; vote: a named barrier of this warpgroup.
  template <class F>
  static __device__ void multiply_floats(Ring& ring, int count, int stages, int first_row, int pixels, int vote,
                                         Accumulators& sum, F last_block_seen) {
    // Where one warpgroup is alone, nobody fills the time for which it waits for k-blocks, for its loads and for votes.
    // But pairs need a ring that holds one more than those that are multiplied and converted.
    if constexpr (Tile::kTeam == Team::kSolo && !kSplit) {
      if (stages >= 6) return multiply_pairs(ring, count, first_row, pixels, vote, sum, last_block_seen);
    }
    multiply_halves(ring, count, first_row, pixels, vote, sum, last_block_seen);
  }

  // Two k-blocks a turn.
  template <class F>
  static __device__ void multiply_pairs(Ring& ring, int count, int first_row, int pixels, int vote, Accumulators& sum,
                                        F last_block_seen) {
    static_assert(!kSplit);
    using Rows = HalfRows<kRowBlocks, false>;
    RowScales<kRowBlocks> scales(first_row, pixels);
    const auto enlarge = [&](int ahead) {
      ring.wait(ahead);
      scales.enlarge(ring.row(ahead), [&](int m, int row, float factor) { scale_row(sum, m, row, factor); });
    };
    // Whether what it converts fits its scales.
    const auto convert = [&](Rows(&pair)[2]) {
      ring.wait(0), ring.wait(1);
      const bool fits = scales.convert(ring.row(0), pair[0]);
      return scales.convert(ring.row(1), pair[1]) && fits;
    };
    int left = count;  // k-blocks that have not been multiplied; the ring is at the first of them
    // Multiplies a pair, and converts the one after it. Whether that fitted.
    const auto turn = [&](bool alone, const Rows(&now)[2], Rows(&next)[2]) {
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 2; ++i) issue_halves(now[i], ring.operands(i).b, sum);
      wgmma_commit();
      ring.advance_pair(), left -= 2;
      wgmma_wait<1>();  // `next` is free
      if (!alone) ring.release(4), ring.release(3);
      return left == 0 || !named_barrier_or(vote, 128, !convert(next));
    };
    clear(sum);
    if (count % 2 > 0) {
      Rows rows;
      enlarge(0);
      scales.convert(ring.row(0), rows);
      wgmma_fence();
      issue_halves(rows, ring.operands(0).b, sum);
      wgmma_commit();
      ring.advance(), --left;
      wgmma_wait<0>();
      changed(sum);
      ring.release(1);
    }
    while (left > 0) {
      Rows even[2], odd[2];
      enlarge(0), enlarge(1);
      convert(even);
      bool alone = true;
#pragma unroll 1
      for (;;) {
        if (!turn(alone, even, odd) || left == 0) break;
        if (!turn(false, odd, even) || left == 0) break;
        alone = false;
      }
      wgmma_wait<0>();
      changed(sum);
      ring.release(2), ring.release(1);
    }
    last_block_seen();
    for_rows([&](int m, int row) { scale_row(sum, m, row, scales.inverse(m, row)); });
  }

  // A k-block a turn.
  template <class F>
  static __device__ void multiply_halves(Ring& ring, int count, int first_row, int pixels, int vote, Accumulators& sum,
                                         F last_block_seen) {
    using Rows = HalfRows<kRowBlocks, kSplit>;
    RowScales<kRowBlocks> scales(first_row, pixels);
    Accumulators products;  // of one k-block, where products are split
    // Multiplies the current k-block, which is in `now`, and converts the one after it. Whether that fitted.
    const auto turn = [&](bool alone, bool more, const Rows& now, Rows& next) {
      const uint32_t b = ring.operands().b;
      Accumulators& into = kSplit ? products : sum;
      wgmma_fence();
      // The filter's row: 32 high halves, then, where products are split, 32 low ones. Small products first.
#pragma unroll
      for (int step = 0; step < (kSplit ? 2 : 0); ++step)
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m) {
          wgmma<BN>(into[m], now.low[m][step], descriptor<kFilterRowBytes>(b + step * 2), step > 0);
          wgmma<BN>(into[m], now.high[m][step], descriptor<kFilterRowBytes>(b + 4 + step * 2), true);
        }
      issue_halves(now, b, into);
      wgmma_commit();
      ring.advance();
      if constexpr (!kSplit) {
        wgmma_wait<1>();  // `next` is free
        if (!alone) ring.release(2);
      }
      bool fits = true;
      if (more) {
        ring.wait();
        // The warps of a warpgroup must go on together: wgmma is one instruction of all four.
        fits = !named_barrier_or(vote, 128, !scales.convert(ring.row(), next));
      }
      if constexpr (kSplit) {
        // Tensor cores cut digits off as they add up: sums of more than a k-block are made here.
        wgmma_wait<0>();
        changed(products);
        ring.release(1);
        for_rows([&](int m, int row) {
          const float inverse = scales.inverse(m, row);
          for_row(products, m, row, [&](float product, int m, int j) { sum[m][j] += product * inverse; });
        });
      }
      return fits;
    };
    clear(sum);
    for (int i = 0; i < count;) {
      Rows even, odd;
      ring.wait();
      scales.enlarge(ring.row(), [&](int m, int row, float factor) {
        if constexpr (!kSplit) scale_row(sum, m, row, factor);
      });
      scales.convert(ring.row(), even);
      bool alone = true;
#pragma unroll 1
      for (;;) {
        ++i;
        if (!turn(alone, i < count, even, odd) || i == count) break;
        ++i;
        if (!turn(false, i < count, odd, even) || i == count) break;
        alone = false;
      }
      if constexpr (!kSplit) {
        wgmma_wait<0>();
        changed(sum);
        ring.release(1);
      }
    }
    last_block_seen();
    if constexpr (!kSplit) {
      for_rows([&](int m, int row) { scale_row(sum, m, row, scales.inverse(m, row)); });
    }
  }

 private:
  // Calls f with the accumulators of a row: of four of a thread, the first two are of row 0, the others of row 1.
  template <class F>
  static __device__ void for_row(Accumulators& acc, int m, int row, F f) {
#pragma unroll
    for (int j = row * 2; j < BN / 2; j += 4) f(acc[m][j], m, j), f(acc[m][j + 1], m, j + 1);
  }
  template <class F>
  static __device__ void for_rows(F f) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) f(m, 0), f(m, 1);
  }
  static __device__ void scale_all(Accumulators& acc, float factor) {
    for_rows([&](int m, int row) { scale_row(acc, m, row, factor); });
  }
  static __device__ void scale_row(Accumulators& acc, int m, int row, float factor) {
    for_row(acc, m, row, [=](float& v, int, int) { v *= factor; });
  }

  // Of a k-block, the products of high halves.
  template <class Rows>
  static __device__ void issue_halves(const Rows& rows, uint32_t b, Accumulators& into) {
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m)
        wgmma<BN>(into[m], rows.high[m][step], descriptor<kFilterRowBytes>(b + step * 2), true);
  }
};

}  // namespace cks::cuda::hopper

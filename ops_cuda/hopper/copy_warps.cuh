// The warps that copy: a producer fills the ring of k-blocks, one lane issuing every copy; a storer for each team
// empties the ring of finished slabs.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

template <class Tile>
struct CopyWarps {
  using Barriers = typename Tile::Barriers;
  static constexpr int BM = Tile::BM, BN = Tile::BN, BK = Tile::BK, kTeams = Tile::kTeams,
                       kFilterRow = Tile::kFilterRow, kABytes = Tile::kABytes, kBBytes = Tile::kBBytes,
                       kStageBytes = Tile::kStageBytes, kSlab = Tile::kSlab, kSlabBytes = Tile::kSlabBytes,
                       kStaged = Tile::kStaged;

  // A walk over the k-blocks of an item that are this block's; the tap after the current one is fetched ahead.
  class KBlocks {
   public:
    __device__ KBlocks(const Params& p, const WorkReader& work, int rank) : channel_blocks_(p.channel_blocks) {
      const auto& sum = work.sum();
      const int total = sum.hi - sum.lo, lo = sum.lo + total * rank / p.splits;
      left_ = sum.lo + total * (rank + 1) / p.splits - lo;
      const int tap = lo / channel_blocks_;
      next_ = reinterpret_cast<const Tap*>(p.taps + work.output().first_tap + tap);
      c_ = lo - tap * channel_blocks_;
      further_ = (c_ + left_ - 1) / channel_blocks_;
      tap_ = coming_ = read_plan(next_);
      if (further_ > 0) coming_ = read_plan(next_ + 1);
    }
    __device__ int left() const { return left_; }
    __device__ int4 tap() const { return tap_; }  // {d, h, w, filter}
    __device__ int c() const { return c_; }
    __device__ void advance() {
      --left_;
      if (++c_ < channel_blocks_) return;
      c_ = 0, tap_ = coming_, ++next_;
      if (--further_ > 0) coming_ = read_plan(next_ + 1);
    }

   private:
    using Tap = int4;
    int channel_blocks_, left_, c_, further_;
    const Tap* next_;
    Tap tap_, coming_;
  };

  // Weights that are older than the previous grid may come while it still runs; but few of them, because the first
  // pixels queue up behind them.
  static constexpr int kAhead = (32 << 10) / kBBytes;

  static __device__ void produce(const Params& p, WorkReader work, uint32_t tiles, const Barriers& bars, int rank) {
    const bool elected = elect_lane();
    const uint32_t full0 = shared_address(bars.full), empty0 = shared_address(bars.empty);
    const int bytes = p.box_bytes + kBBytes;
    PipelineState s;
    const auto copy_a = [&](const KBlocks& k, int stage) {
      const auto& at = work.input();
      const int4 tap = k.tap();
      copy_box(tiles + stage * kStageBytes, &p.x, full0 + stage * 8,
               {k.c() * BK, at.w + tap.z, at.h + tap.y, at.d + tap.x, at.n});
    };
    const auto copy_b = [&](const KBlocks& k, int stage) {
      barrier_expect(full0 + stage * 8, bytes);
      copy_filter(tiles + stage * kStageBytes + kABytes, &p.filter, full0 + stage * 8, k.c() * kFilterRow,
                  work.sum().k0, k.tap().w);
    };
    bool any = work.next();
    const KBlocks first(p, work, rank);
    const int ahead = p.filter_is_constant ? min(min(p.stages, kAhead), first.left()) : 0;
    KBlocks k = first;
#pragma unroll 1
    for (int i = 0; i < ahead; ++i) {
      if (elected) copy_b(k, i);
      k.advance();
    }
    wait_for_previous_grid();
    k = first;
#pragma unroll 1
    for (int i = 0; i < ahead; ++i) {
      if (elected) copy_a(k, i);
      k.advance();
      s.advance(p.stages);
    }
    while (any) {
#pragma unroll 1
      for (; k.left() > 0; k.advance()) {
        barrier_wait(empty0 + s.stage * 8, s.parity ^ 1);
        if (elected) {
          copy_b(k, s.stage);
          copy_a(k, s.stage);
        }
        s.advance(p.stages);
      }
      any = work.next();
      if (any) k = KBlocks(p, work, rank);
    }
  }

  // The slabs that a team's whole tiles leave, in order. All lanes of a warp together.
  class Slabs {
   public:
    __device__ Slabs(const WorkReader& work, int team) : work_(work), skip_(team) {}
    __device__ bool next(const Params& p) {
      c_ += kSlab;
      if (c_ < BN && work_.sum().k0 + c_ < p.K) return true;
      c_ = BN;  // past the last item too, where this may be asked again
      do {
        for (; skip_ >= 0; --skip_)
          if (!work_.next()) return false;
        skip_ = kTeams - 1;
      } while (work_.sum().parts > 1);
      c_ = 0;
      return true;
    }
    __device__ bool is_last_of_tile(const Params& p) const {
      return c_ + kSlab >= BN || work_.sum().k0 + c_ + kSlab >= p.K;
    }
    __device__ Coordinates at() const {
      const auto& to = work_.output();
      return {work_.sum().k0 + c_, to.w, to.h, to.d, work_.input().n};
    }

   private:
    WorkReader work_;
    int skip_, c_ = BN;
  };

  static __device__ void store(const Params& p, const WorkReader& work, uint32_t stages, const Barriers& bars,
                               int team) {
    const int lane = threadIdx.x % 32;
    const auto buffer = [&](int i) { return stages + i * (BM * kSlabBytes); };
    Slabs coming(work, team), going(work, team);
    PipelineState prepared, sent;
    int free = kStaged;
    // A free buffer is made ready: the residual, if there is one, goes where the slab will.
    const auto prepare = [&] {
      while (free > 0 && coming.next(p)) {
        --free;
        if (lane == 0) {
          const uint32_t ready = shared_address(&bars.ready[team][prepared.stage]);
          if (p.epilogue.residual) {
            barrier_expect(ready, p.box_bytes / 128 * kSlabBytes);
            copy_box(buffer(prepared.stage), &p.residual, ready, coming.at());
          } else {
            barrier_arrive(ready);
          }
        }
        prepared.advance(kStaged);
      }
    };
    wait_for_previous_grid();
    prepare();
    bool pending = false;  // whether the last store may still be reading
    while (going.next(p)) {
      if (lane == 0) {
        barrier_wait(shared_address(&bars.staged[team][sent.stage]), sent.parity);
        store_box(&p.y, buffer(sent.stage), going.at());
        store_commit();
      }
      sent.advance(kStaged);
      // Within a tile the next slab is about to be there: one store may read beside it.
      const bool was_pending = pending;
      pending = kStaged > 1 && !going.is_last_of_tile(p);
      if (lane == 0) pending ? store_wait_read<1>() : store_wait_read<0>();
      free += was_pending + !pending;
      prepare();
    }
    if (lane == 0) store_wait_read<0>();
  }
};

}  // namespace cks::cuda::hopper

// K-blocks of which each has a box or a run of pixels of its own: one ring holds both operands.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/wgmma.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

// What the producer warp does, one lane issuing every copy.
template <class Tile>
struct BoxProducer {
  using Barriers = typename Tile::Barriers;
  static constexpr int BK = Tile::BK, kFilterRow = Tile::kFilterRow, kABytes = Tile::kABytes, kBBytes = Tile::kBBytes,
                       kStageBytes = Tile::kStageBytes;

  // A walk over the k-blocks of an item; the tap after the current one is fetched ahead.
  class Walk {
   public:
    __device__ Walk(const Params& p, const WorkReader& work)
        : channel_blocks_(p.channel_blocks),
          left_(work.sum().hi - work.sum().lo),
          c_(work.sum().lo),
          next_(reinterpret_cast<const Tap*>(p.taps + work.output().first_tap) + 1),
          tap_(work.start()),
          coming_(read_plan(next_)) {}
    __device__ int left() const { return left_; }
    __device__ const WorkItem::Start& tap() const { return tap_; }
    __device__ int c() const { return c_; }
    __device__ void advance() {
      --left_;
      if (++c_ < channel_blocks_) return;
      c_ = 0, tap_ = coming_, coming_ = read_plan(++next_);
    }

   private:
    using Tap = WorkItem::Start;
    int channel_blocks_, left_, c_;
    const Tap* next_;
    Tap tap_, coming_;
  };

  // Weights that are older than the previous grid may come while it still runs; but few of them, because the first
  // pixels queue up behind them.
  static constexpr int kAhead = (32 << 10) / kBBytes;

  static __device__ void run(const Params& p, WorkReader work, uint32_t tiles, const Barriers& bars) {
    const bool elected = elect_lane();
    const uint32_t full0 = shared_address(bars.full), empty0 = shared_address(bars.empty);
    const int bytes = p.box_bytes + kBBytes;
    PipelineState s;
    const auto copy_a = [&](const Walk& k, int stage) {
      const auto& at = work.input();
      const auto& tap = k.tap();
      const ChannelBlock<BK> from(p, k.c());
      if (p.runs) {
        copy_run(tiles + stage * kStageBytes, from.map, full0 + stage * 8, {from.c, at.w, at.h, at.d}, tap.w, tap.h);
      } else {
        copy_box(tiles + stage * kStageBytes, from.map, full0 + stage * 8,
                 {from.c, at.w + tap.w, at.h + tap.h, at.d + tap.d, at.n});
      }
    };
    const auto copy_b = [&](const Walk& k, int stage) {
      barrier_expect(full0 + stage * 8, bytes);
      copy_filter(tiles + stage * kStageBytes + kABytes, &p.filter, full0 + stage * 8, k.c() * kFilterRow,
                  work.sum().k0, k.tap().filter);
    };
    bool any = work.next();
    const Walk first(p, work);
    const int ahead = p.filter_is_constant ? min(min(p.stages, kAhead), first.left()) : 0;
    Walk k = first;
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
      if (any) k = Walk(p, work);
    }
  }
};

// Where a math warp finds what it multiplies.
template <class Tile>
class BoxRing {
 public:
  // row: of the tile, this lane's first; row blocks begin at `first_block`.
  __device__ BoxRing(const Params& p, uint32_t tiles, const typename Tile::Barriers& bars, int first_block, int row)
      : a_(descriptor_low(tiles + first_block * (64 * 128))),
        b_(descriptor_low(tiles + Tile::kABytes)),
        rows_(tiles + row * 128),
        full_(shared_address(bars.full)),
        empty_(shared_address(bars.empty)),
        stages_(p.stages) {}
  __device__ void begin(const Params&, const WorkReader&) {}
  __device__ void skip(int count) { at_.skip(stages_, count); }
  // For the k-block that is `ahead` after the current one, as are those below.
  __device__ void wait(int ahead = 0) const {
    const PipelineState at = position(ahead);
    barrier_wait(full_ + at.stage * 8, at.parity);
  }
  // The k-block `ago` blocks before the current one has been multiplied.
  __device__ void release(int ago) const {
    const int stage = at_.stage >= ago ? at_.stage - ago : at_.stage - ago + stages_;
    if (threadIdx.x % 32 == 0) barrier_arrive(empty_ + stage * 8);
  }
  __device__ void advance() { at_.advance(stages_); }
  __device__ void advance_pair() { at_ = position(2); }

  // A k-block, as descriptors: of row block m, and the low word of the filter's.
  struct Operands {
    uint32_t a_low, b;
    __device__ uint64_t a(int m, int step) const { return descriptor<128>(a_low + m * (64 * 128 >> 4) + step * 2); }
  };
  __device__ Operands operands(int ahead = 0) const {
    const uint32_t at = position(ahead).stage * (Tile::kStageBytes >> 4);
    return {a_ + at, b_ + at};
  }
  // The address of this lane's first row.
  __device__ uint32_t row(int ahead = 0) const { return rows_ + position(ahead).stage * Tile::kStageBytes; }

 private:
  __device__ PipelineState position(int ahead) const { return ahead == 0 ? at_ : at_.ahead(stages_, ahead); }

  uint32_t a_, b_, rows_, full_, empty_;
  int stages_;
  PipelineState at_{};
};

}  // namespace cks::cuda::hopper

// K-blocks of which each has a box or a run of pixels of its own: one ring holds both operands.
//
// The blocks of a pair multiply the same pixels, each with output channels of its own. They take turns to copy a
// k-block's pixels, to both; a stage is free when both have multiplied it.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/tile_parts.cuh"
#include "ops_cuda/hopper/wgmma.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

// What the producer warp does, one lane issuing every copy.
template <class Tile>
class BoxProducer {
  using Barriers = typename Tile::Barriers;
  static constexpr int BK = Tile::BK, kFilterRow = Tile::kFilterRow, kABytes = Tile::kABytes, kBBytes = Tile::kBBytes,
                       kStageBytes = Tile::kStageBytes;

 public:
  // work: at its first item.
  static __device__ void run(const Params& p, const WorkReader& work, uint32_t tiles, const Barriers& bars) {
    if (Tile::kCanPair && p.pairs) {
      p.runs ? copy_all<true, true>(p, work, tiles, bars) : copy_all<false, true>(p, work, tiles, bars);
    } else {
      p.runs ? copy_all<true, false>(p, work, tiles, bars) : copy_all<false, false>(p, work, tiles, bars);
    }
  }

 private:
  // Neighbouring k-blocks of an item that one tap and one input tensor have: what their copies have in common, and the
  // first one's channels.
  struct Stretch {
    const CUtensorMap* map;
    int count, c, filter_c, w, h, d, n;
    int tap_w, tap_h;  // of a run, beside its base pixel
    int k0, filter;
  };

  // The stretches of an item, in order.
  class Stretches {
   public:
    __device__ Stretches(const Params& p, const WorkReader& work)
        : taps_(p.taps + work.output().first_tap),
          left_(work.sum().hi - work.sum().lo),
          c_(work.sum().lo),
          k0_(work.sum().k0),
          from_(work.input()),
          tap_(work.start()) {}
    __device__ int left() const { return left_; }
    template <bool kRuns>
    __device__ Stretch take(const Params& p) {
      if (c_ == p.channel_blocks) c_ = 0, tap_ = taps_.read(++t_);
      const bool in_x = c_ < p.x_blocks;
      Stretch s{in_x ? &p.x : &p.x2,
                min(left_, (in_x ? p.x_blocks : p.channel_blocks) - c_),
                (in_x ? c_ : c_ - p.x_blocks) * BK,
                c_ * kFilterRow,
                kRuns ? from_.w : from_.w + tap_.w,
                kRuns ? from_.h : from_.h + tap_.h,
                kRuns ? from_.d : from_.d + tap_.d,
                from_.n,
                tap_.w,
                tap_.h,
                k0_,
                tap_.filter};
      c_ += s.count, left_ -= s.count;
      return s;
    }

   private:
    TapReader taps_;
    int left_, c_, t_ = 0, k0_;
    WorkItem::Input from_;
    TapReader::Tap tap_;
  };

  // The loop over k-blocks decides how fast small tiles are. Whatever their copies have in common is found before it,
  // in uniform registers.
  template <bool kRuns, bool kPairs>
  static __device__ void copy_all(const Params& p, WorkReader work, uint32_t tiles, const Barriers& bars) {
    const bool elected = elect_lane();
    const uint32_t full0 = shared_address(bars.full), empty0 = shared_address(bars.empty);
    const int bytes = p.box_bytes + kBBytes;
    constexpr uint16_t kBoth = 3;
    uint32_t turn = kPairs ? cluster_rank() : 0;  // 0 where the next pixels are this block's to copy
    const auto copy_a = [&](const Stretch& s, int i, int stage) {
      if (kPairs && (turn++ & 1)) return;
      const uint32_t to = tiles + stage * kStageBytes, bar = full0 + stage * 8;
      if constexpr (kRuns) {
        const BasePixel at{s.c + i * BK, s.w, s.h, s.d};
        kPairs ? copy_run_to_all(to, s.map, bar, at, s.tap_w, s.tap_h, kBoth)
               : copy_run(to, s.map, bar, at, s.tap_w, s.tap_h);
      } else {
        const Coordinates at{s.c + i * BK, s.w, s.h, s.d, s.n};
        kPairs ? copy_box_to_all(to, s.map, bar, at, kBoth) : copy_box(to, s.map, bar, at);
      }
    };
    const auto copy_b = [&](const Stretch& s, int i, int stage) {
      barrier_expect(full0 + stage * 8, bytes);
      copy_filter(tiles + stage * kStageBytes + kABytes, &p.filter, full0 + stage * 8, s.filter_c + i * kFilterRow,
                  s.k0, s.filter);
    };
    Stretches k(p, work);
    Stretch s = k.template take<kRuns>(p);
    // The first k-blocks, pixels after the previous grid.
    const int ahead = p.filter_is_constant ? min(min(p.stages, Tile::most_ahead(p)), s.count) : 0;
    if (elected) {
#pragma unroll 1
      for (int i = 0; i < ahead; ++i) copy_b(s, i, i);
    }
    launch_dependents();
    // A pair's pixels need the other block's barriers. (Blocks that share a tile need not wait here, but gain nothing
    // by going on.)
    if (p.splits > 1 || kPairs) cluster_wait();
    wait_for_previous_grid();
    if (elected) {
#pragma unroll 1
      for (int i = 0; i < ahead; ++i) copy_a(s, i, i);
    }
    PipelineState at = PipelineState{}.ahead(p.stages, ahead);
    work.fetch_next();
    for (int i = ahead; !work.at_end();) {
      while (true) {
#pragma unroll 1
        for (; i < s.count; ++i) {
          barrier_wait(empty0 + at.stage * 8, at.parity ^ 1);
          if (elected) {
            copy_b(s, i, at.stage);
            copy_a(s, i, at.stage);
          }
          at.advance(p.stages);
        }
        if (k.left() == 0) break;
        s = k.template take<kRuns>(p), i = 0;
      }
      if constexpr (Tile::kCanBeCut) {
        const int others = work.sum().parts - 1;
        if (others > 0) at = TileParts<Tile>::fetch(p, work.part(), others, tiles, bars, at, elected);
      }
      if (!work.next()) break;
      work.fetch_next();
      k = Stretches(p, work);
      s = k.template take<kRuns>(p), i = 0;
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
        empty_(Tile::kCanPair && p.pairs ? peer_address(shared_address(bars.empty), threadIdx.x & 1)
                                         : shared_address(bars.empty)),
        stages_(p.stages),
        channel_blocks_(p.channel_blocks),
        last_is_half_(p.last_is_half),
        blocks_(Tile::kCanPair && p.pairs ? 2 : 1),
        is_for_block_(int(threadIdx.x % 32) < blocks_) {}
  __device__ void begin(const Params&, const WorkReader& work) { left_ = channel_blocks_ - work.sum().lo; }
  __device__ void skip(const WorkReader& work) { at_.skip(stages_, work.sum().hi - work.sum().lo); }
  // For the k-block that is `ahead` after the current one, as are those below.
  __device__ void wait(int ahead = 0) const {
    const PipelineState at = position(ahead);
    barrier_wait(full_ + at.stage * 8, at.parity);
  }
  // The k-block `ago` blocks before the current one has been multiplied.
  __device__ void release(int ago) const {
    if (is_for_block_) arrive(ago);
  }
  // The last `count` k-blocks have been; a lane for each, and for each block of a pair.
  __device__ void release_last(int count) const {
    const int ago = int(threadIdx.x % 32) / blocks_ + 1;
    if (ago <= count) arrive(ago);
  }
  __device__ void advance() {
    at_.advance(stages_);
    if (--left_ == 0) left_ = channel_blocks_;
  }
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
  // Whether the current k-block has only its first half.
  __device__ bool is_half() const { return last_is_half_ && left_ == 1; }
  // Where its stage lies in the ring.
  __device__ uint32_t offset() const { return at_.stage * Tile::kStageBytes; }
  // The address of this lane's first row.
  __device__ uint32_t row(int ahead = 0) const { return rows_ + position(ahead).stage * Tile::kStageBytes; }

 private:
  __device__ void arrive(int ago) const {
    const uint32_t bar = empty_ + (at_.stage >= ago ? at_.stage - ago : at_.stage - ago + stages_) * 8;
    Tile::kCanPair ? barrier_arrive_peer(bar) : barrier_arrive(bar);
  }
  __device__ PipelineState position(int ahead) const { return ahead == 0 ? at_ : at_.ahead(stages_, ahead); }

  uint32_t a_, b_, rows_, full_, empty_;  // empty: of this lane's block of a pair
  int stages_, channel_blocks_;
  bool last_is_half_;
  int left_ = 0;       // k-blocks of the current tap; advance_pair() is for floats, which have no halves to leave out
  int blocks_;         // that copy each other's pixels
  bool is_for_block_;  // this lane: to tell one of them
  PipelineState at_{};
};

}  // namespace cks::cuda::hopper

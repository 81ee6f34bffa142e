// K-blocks whose taps share patches (patch.h): a ring of patches of pixels, and a ring of the filter's k-blocks, or all
// of the filter where it fits.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/wgmma.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

// A walk over an item's k-blocks: the taps of a block of channels, patch by patch, then those of the next one.
class PatchWalk {
 public:
  __device__ PatchWalk(const Params& p, const WorkReader& work)
      : reader_(p.taps + work.output().first_tap),
        start_(work.start()),
        taps_(work.patches().taps),
        left_(work.sum().hi) {}
  __device__ int left() const { return left_; }
  __device__ int c() const { return c_; }
  // Of a patch, its first tap: the first patch of all does not wait for the list.
  __device__ TapReader::Tap first() { return t_ == 0 ? start_ : reader_.read(t_); }
  __device__ int filter() { return reader_.read(t_).filter; }
  // Past so many taps that share a patch.
  __device__ void advance(int taps) {
    left_ -= taps, t_ += taps;
    if (t_ == taps_) t_ = 0, ++c_;
  }

 private:
  TapReader reader_;
  TapReader::Tap start_;
  int taps_, left_, c_ = 0, t_ = 0;
};

// corner: where the patch begins, as its first tap has it (patch.h).
template <class Tile>
__device__ void copy_patch(const Params& p, uint32_t to, uint32_t bar, int c, const WorkItem::Input& at, int corner) {
  const auto coordinate = [&](int axis) {  // counted from w
    return corner << (32 - (axis + 1) * kCornerBits) >> (32 - kCornerBits);
  };
  barrier_expect(bar, p.patch_bytes);
  const ChannelBlock<Tile::BK> from(p, c);
  copy_box(to, from.map, bar, {from.c, at.w + coordinate(0), at.h + coordinate(1), at.d + coordinate(2), at.n});
}

template <class Tile>
struct PatchProducer {
  using Barriers = typename Tile::Barriers;
  static constexpr int kFilterRow = Tile::kFilterRow, kBBytes = Tile::kBBytes;

  // work: at its first item.
  static __device__ void run(const Params& p, WorkReader work, uint32_t filters, uint32_t patches,
                             const Barriers& bars) {
    const bool elected = elect_lane();
    const uint32_t full0 = shared_address(bars.full), empty0 = shared_address(bars.empty),
                   patch_full0 = shared_address(bars.patch_full), patch_empty0 = shared_address(bars.patch_empty);
    const auto copy_b = [&](int stage, int c, int tap, int k0) {
      barrier_expect(full0 + stage * 8, kBBytes);
      copy_filter(filters + stage * kBBytes, &p.filter, full0 + stage * 8, c * kFilterRow, k0, tap);
    };
    PatchWalk walk(p, work);
    WorkItem::Input from = work.input();
    launch_dependents();
    if (!p.filter_is_constant) wait_for_previous_grid();
    int ahead = 0;
    if (p.filter_stays) {
      for (int c = 0, stage = 0; c < p.channel_blocks; ++c)
        for (int tap = 0; tap < p.filter_taps; ++tap, ++stage)
          if (elected) copy_b(stage, c, tap, 0);
    } else {
      ahead = min(min(p.stages, Tile::most_ahead(p)), walk.left());
      PatchWalk k = walk;
#pragma unroll 1
      for (int i = 0; i < ahead; ++i) {
        const int filter = k.filter();
        if (elected) copy_b(i, k.c(), filter, work.sum().k0);
        k.advance(1);
      }
    }
    if (p.filter_is_constant) wait_for_previous_grid();
    work.fetch_next();
    PipelineState s, patch;
    while (!work.at_end()) {
#pragma unroll 1
      while (walk.left() > 0) {
        const TapReader::Tap first = walk.first();
        const int taps = first.d;
        barrier_wait(patch_empty0 + patch.stage * 8, patch.parity ^ 1);
        if (elected)
          copy_patch<Tile>(p, patches + patch.stage * p.patch_pitch, patch_full0 + patch.stage * 8, walk.c(), from,
                           first.h);
        patch.advance(p.patch_stages);
        if (p.filter_stays) {
          walk.advance(taps);
          continue;
        }
#pragma unroll 1
        for (int i = 0; i < taps; ++i) {
          if (ahead > 0) {
            --ahead;
          } else {
            barrier_wait(empty0 + s.stage * 8, s.parity ^ 1);
            const int filter = walk.filter();
            if (elected) copy_b(s.stage, walk.c(), filter, work.sum().k0);
          }
          s.advance(p.stages);
          walk.advance(1);
        }
      }
      if (!work.next()) break;
      work.fetch_next();
      walk = PatchWalk(p, work), from = work.input();
    }
  }
};

// Where a math warp finds what it multiplies: patch by patch, tap by tap. Taps are read two ahead, lest products wait
// for one. What has been multiplied is released in order.
template <class Tile>
class PatchRing {
  static constexpr int kRowBlocks = Tile::kRowBlocks;

 public:
  __device__ PatchRing(const Params& p, uint32_t filters, uint32_t patches, const typename Tile::Barriers& bars,
                       int first_block)
      : a_(descriptor_low(patches)),
        b_(descriptor_low(filters)),
        pitch_(p.patch_pitch),
        group_pitch_(p.group_pitch),
        full_(shared_address(bars.full)),
        empty_(shared_address(bars.empty)),
        patch_full_(shared_address(Tile::kConverts ? bars.patch_ready : bars.patch_full)),
        patch_scale_(shared_address(bars.patch_scale)),
        patch_empty_(shared_address(bars.patch_empty)),
        stages_(p.stages),
        patch_stages_(p.patch_stages),
        channel_blocks_(p.channel_blocks),
        last_is_half_(p.last_is_half),
        filter_taps_(p.filter_taps),
        filter_stays_(p.filter_stays) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) block_[m] = p.row_blocks[first_block + m];
  }
  __device__ void begin(const Params& p, const WorkReader& work) {
    list_ = p.taps + work.output().first_tap, taps_ = work.patches().taps;
    t_ = block_stages_ = 0, left_ = channel_blocks_;
    const auto start = work.start();
    tap_ = {start.w, start.filter};
    read_ = after(0);
    coming_ = read();
  }
  // Past an item that the other team has: a whole tile.
  __device__ void skip(const WorkReader& work) {
    at_.skip(stages_, work.sum().hi), done_.skip(stages_, work.sum().hi);
    const int patches = work.patches().count * channel_blocks_;
    patch_.skip(patch_stages_, patches), done_patch_.skip(patch_stages_, patches);
  }

  // Waits for the next patch. How many k-blocks read it.
  __device__ int begin_patch() {
    barrier_wait(patch_full_ + patch_.stage * 8, patch_.parity);
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) rows_[m] = a_ + ((patch_.stage * pitch_ + block_[m]) >> 4);
    patch_taps_ = tap_.place >> kPixelBits;
    tap_.place &= (1 << kPixelBits) - 1;
    return patch_taps_;
  }
  // What its values are multiplied by.
  __device__ float scale() const { return load_shared_float(patch_scale_ + patch_.stage * 4); }
  __device__ void end_patch() {
    t_ += patch_taps_;
    if (t_ == taps_) t_ = 0, block_stages_ += filter_taps_, --left_;
    patch_.advance(patch_stages_);
  }
  __device__ void release_patch() {
    if (threadIdx.x % 32 == 0) barrier_arrive(patch_empty_ + done_patch_.stage * 8);
    done_patch_.advance(patch_stages_);
  }

  // Whether its k-blocks have only their first half.
  __device__ bool is_half() const { return last_is_half_ && left_ == 1; }

  __device__ bool filter_stays() const { return filter_stays_; }
  // For the filter of the current tap. Where it stays, until a tile has read all of it.
  __device__ void wait() const {
    if (!filter_is_there_) barrier_wait(full_ + filter_stage() * 8, filter_stays_ ? 0 : at_.parity);
  }
  // Has the tap after the next one come, while the current one's products are issued.
  __device__ void fetch() {
    read_ = after(read_);
    later_ = read();
  }
  // A tile has multiplied `count` k-blocks.
  __device__ void seen(int count) { filter_is_there_ |= filter_stays_ && count == stages_; }
  // The oldest k-block; where the filter does not stay.
  __device__ void release() {
    if (threadIdx.x % 32 == 0) barrier_arrive(empty_ + done_.stage * 8);
    done_.advance(stages_);
  }
  __device__ void advance() {
    if (!filter_stays_) at_.advance(stages_);
    tap_ = coming_;
    coming_ = later_;
  }

  struct Operands {
    uint32_t rows[kRowBlocks], b, group_pitch;
    __device__ uint64_t a(int m, int step) const { return descriptor<128>(rows[m] + step * 2, group_pitch); }
  };
  // Products wait for these addresses: a tap takes one step to each of them.
  __device__ Operands operands() const {
    Operands r{{}, b_ + filter_stage() * (Tile::kBBytes >> 4), uint32_t(group_pitch_)};
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) r.rows[m] = rows_[m] + tap_.place * (128 >> 4);
    return r;
  }

 private:
  struct TapWords {
    int place, filter;  // place: the last word of its offset (patch.h)
  };
  __device__ int after(int t) const { return t + 1 == taps_ ? 0 : t + 1; }
  __device__ TapWords read() const {
    // Volatile, lest it is moved behind products: the loop's next turn waits for it.
    TapWords words;
    asm volatile("ld.global.nc.v2.s32 {%0, %1}, [%2];"
                 : "=r"(words.place), "=r"(words.filter)
                 : "l"(reinterpret_cast<const int2*>(list_ + read_) + 1));
    return words;
  }
  __device__ int filter_stage() const { return filter_stays_ ? block_stages_ + tap_.filter : at_.stage; }

  uint32_t a_, b_;
  int pitch_, group_pitch_, block_[kRowBlocks];
  uint32_t full_, empty_, patch_full_, patch_scale_, patch_empty_;
  int stages_, patch_stages_, channel_blocks_, filter_taps_;
  bool last_is_half_, filter_stays_, filter_is_there_ = false;
  const WorkTap* list_ = nullptr;
  int taps_ = 1, patch_taps_ = 0, t_ = 0, read_ = 0;
  int left_ = 0;               // blocks of channels
  int block_stages_ = 0;       // of a filter that stays, those before the current block of channels
  uint32_t rows_[kRowBlocks];  // of the current patch, in 16 bytes
  TapWords tap_{}, coming_{}, later_{};
  PipelineState at_{}, patch_{}, done_{}, done_patch_{};
};

}  // namespace cks::cuda::hopper

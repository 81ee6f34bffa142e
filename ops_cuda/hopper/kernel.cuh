// One Hopper kernel for convolution, transposed convolution and dilated convolution: it walks the live taps of a work
// list.
//
// A block takes work items in order. For each k-block (128 bytes of channels of one tap) a producer lane copies two
// boxes to shared memory by TMA: A, the input pixels that the tile's rows read through this tap (what lies outside the
// input is filled with zeros), and B, the filter's channels. Math warpgroups multiply them (wgmma) and leave the tile
// in shared memory, slab by slab of channels, from where a storer lane sends it by TMA while they go on; the store
// map's element strides interleave the phases of a transposed convolution. With `splits` > 1 the blocks of a cluster
// share a tile's k-blocks and add up through distributed shared memory, in a fixed order.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/hopper/halves.cuh"
#include "ops_cuda/hopper/hopper_conv.h"

namespace cks::cuda::hopper {

// What is multiplied, and how: the type of X and Y, that of wgmma's operands, and the products a multiply-add takes.
struct HalfMath {
  using Element = __half;
  using Operand = __half;
  static constexpr int kProducts = 1;
};
struct BFloat16Math {
  using Element = __nv_bfloat16;
  using Operand = __nv_bfloat16;
  static constexpr int kProducts = 1;
};
struct TF32Math {  // see halves.cuh
  using Element = float;
  using Operand = __half;
  static constexpr int kProducts = 1;
};
struct FP32Math {
  using Element = float;
  using Operand = __half;
  static constexpr int kProducts = 3;
};

// 16 bytes of the plan, which no kernel writes. Every lane reads the same, so that the compiler may keep it in uniform
// registers, which copies and multiplications take their coordinates from.
template <class T>
__device__ T read_plan(const T* from) {
  static_assert(sizeof(T) == 16);
  const int4 words = __ldg(reinterpret_cast<const int4*>(from));
  return *reinterpret_cast<const T*>(&words);
}

// A cluster's work items in order; what one is about is fetched while the one before it is worked on. (What a role does
// not ask for, the compiler does not fetch.)
class WorkReader {
 public:
  __device__ WorkReader(const Params& p, int cluster) : next_(p.items + cluster), pitch_(p.clusters) { fetch(); }
  // False past the last item.
  __device__ bool next() {
    sum_ = coming_sum_, input_ = coming_input_, output_ = coming_output_, item_ = next_;
    if (at_end()) return false;
    next_ += pitch_;
    fetch();
    return true;
  }
  __device__ bool at_end() const { return coming_sum_.parts == 0; }
  __device__ const WorkItem::Sum& sum() const { return sum_; }
  __device__ const WorkItem::Input& input() const { return input_; }
  __device__ const WorkItem::Output& output() const { return output_; }
  // All of it, for those who need it seldom.
  __device__ WorkItem item() const {
    return {sum_, read_plan(&item_->input), read_plan(&item_->output), read_plan(&item_->part)};
  }

 private:
  __device__ void fetch() {
    coming_sum_ = read_plan(&next_->sum);
    coming_input_ = read_plan(&next_->input), coming_output_ = read_plan(&next_->output);
  }
  const WorkItem *next_, *item_ = nullptr;
  int pitch_;
  WorkItem::Sum sum_{}, coming_sum_;
  WorkItem::Input input_{}, coming_input_;
  WorkItem::Output output_{}, coming_output_;
};

// A position in a ring of buffers.
struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  __device__ void skip(int stages, int count) {
    const int laps = (stage + count) / stages;
    stage += count - laps * stages;
    parity ^= laps & 1;
  }
};

template <class Math, Team kTeam, int kRowBlocks, int BN, Curve kCurve>
struct HopperConv {
  using T = typename Math::Element;
  static constexpr TileShape kShape{kTeam, kRowBlocks, BN};
  static constexpr int BM = kShape.bm(), kMathWarps = kShape.math_warpgroups() * 4;
  static constexpr int kTeamThreads = kTeam == Team::kShared ? 256 : 128;  // that work on one tile
  static constexpr bool kAlternate = kTeam == Team::kAlternate;
  static constexpr int kTeams = kAlternate ? 2 : 1;
  static constexpr bool kHalves = sizeof(T) == 4, kSplit = Math::kProducts > 1;
  static constexpr int BK = 128 / int(sizeof(T));
  static constexpr int kFilterRow = filter_row(sizeof(T), Math::kProducts), kFilterRowBytes = kFilterRow * 2;
  static constexpr int kABytes = BM * 128, kBBytes = BN * kFilterRowBytes, kStageBytes = kABytes + kBBytes;
  static constexpr int kSlab = kShape.slab(sizeof(T));       // channels of one store box
  static constexpr int kSlabs = BN / kSlab;                  // of a tile
  static constexpr int kSlabBytes = kSlab * int(sizeof(T));  // a row's, and its swizzle: 64 or 128
  static constexpr int kStaged = kShape.staged_slabs(sizeof(T));
  static constexpr int kStagedBytes = kStaged * BM * kSlabBytes;
  // wgmma groups in flight: with one warpgroup nobody else fills the gap that draining leaves.
  static constexpr int kInFlight = kRowBlocks * BN >= 128 && kTeam != Team::kSolo ? 1 : 3;
  static constexpr bool kCanBeCut = kShape.can_be_cut();
  // Twelve warps have 168 registers each, unless those that copy give some up.
  static constexpr bool kTakesRegisters = kHalves && kTeam != Team::kSolo && kRowBlocks * BN * Math::kProducts >= 256;
  using Accumulators = float[kRowBlocks][BN / 2];

  struct Barriers {
    uint64_t full[kMaxStages], empty[kMaxStages];              // of the ring of k-blocks
    uint64_t ready[kTeams][kStaged], staged[kTeams][kStaged];  // of the rings of slabs
    uint64_t turn[2], partial_ready, partial_read;
  };

  // By the first warp, a barrier of each kind a lane.
  static __device__ void init(Barriers& bars, const Params& p) {
    const int i = threadIdx.x;
    const auto init = [](uint64_t& bar, int arrivals) { barrier_init(shared_address(&bar), arrivals); };
    static_assert(kMaxStages <= 32 && kTeams * kStaged <= 32);
    if (i < p.stages) init(bars.full[i], 1), init(bars.empty[i], kTeamThreads / 32);
    if (i < kTeams * kStaged) init((&bars.ready[0][0])[i], 1), init((&bars.staged[0][0])[i], kTeamThreads / 32);
    if (i < 2) init(bars.turn[i], kTeamThreads / 32);
    if (i == 0) init(bars.partial_ready, p.splits), init(bars.partial_read, p.splits);
    barrier_init_fence();
  }

  // ------------------------------------------------------------ the producer: one lane issues every copy
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

  // ------------------------------------------------------------ the storer: a lane for each team
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

  // ------------------------------------------------------------ the main loop
  // Where a math warp finds what it multiplies.
  struct Ring {
    uint32_t a, b;  // descriptors of the first stage; where rows are converted, `a` is the address of this lane's first
    uint32_t full, empty;
    int stages, vote;  // vote: a named barrier of this warpgroup
    PipelineState at{};
    __device__ void wait() const { barrier_wait(full + at.stage * 8, at.parity); }
    // The k-block `ago` blocks before the current one has been multiplied.
    __device__ void release(int ago) const {
      const int stage = at.stage >= ago ? at.stage - ago : at.stage - ago + stages;
      if (threadIdx.x % 32 == 0) barrier_arrive(empty + stage * 8);
    }
    __device__ void advance() { at.advance(stages); }
  };

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
      const uint32_t at = ring.at.stage * (kStageBytes >> 4), a = ring.a + at, b = ring.b + at;
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m)
          wgmma<T, BN>(acc[m], descriptor<128>(a + m * (64 * 128 >> 4) + k * 2), descriptor<128>(b + k * 2));
      wgmma_commit();
      wgmma_wait<kInFlight>();
      if (i >= kInFlight) ring.release(kInFlight);
      ring.advance();
    }
    last_block_seen();
    wgmma_wait<0>();
    changed(acc);
    for (int ago = min(count, kInFlight); ago > 0; --ago) ring.release(ago);
  }

  // A through registers, as halves: the next k-block is converted while the current one is multiplied. Where its rows
  // outgrow their scales, what is under way is finished first.
  template <class F>
  static __device__ void multiply_halves(Ring& ring, int count, int first_row, int pixels, Accumulators& sum,
                                         F last_block_seen) {
    using Rows = HalfRows<kRowBlocks, kSplit>;
    RowScales<kRowBlocks> scales(first_row, pixels);
    Accumulators products;  // of one k-block, where products are split
    // Calls f with the accumulators of a row: of four of a thread, the first two are of row 0, the others of row 1.
    const auto for_row = [](Accumulators& acc, int m, int row, auto f) {
#pragma unroll
      for (int j = row * 2; j < BN / 2; j += 4) f(acc[m][j], m, j), f(acc[m][j + 1], m, j + 1);
    };
    const auto for_rows = [](auto f) {
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) f(m, 0), f(m, 1);
    };
    const auto rows_now = [&] { return ring.a + ring.at.stage * kStageBytes; };
    // Multiplies the current k-block, which is in `now`, and converts the one after it. Whether that fitted.
    const auto turn = [&](bool alone, bool more, const Rows& now, Rows& next) {
      const uint32_t b = ring.b + ring.at.stage * (kStageBytes >> 4);
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
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m)
          wgmma<BN>(into[m], now.high[m][step], descriptor<kFilterRowBytes>(b + step * 2), true);
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
        fits = !named_barrier_or(ring.vote, 128, !scales.convert(rows_now(), next));
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
      scales.enlarge(rows_now(), [&](int m, int row, float factor) {
        if constexpr (!kSplit) for_row(sum, m, row, [=](float& v, int, int) { v *= factor; });
      });
      scales.convert(rows_now(), even);
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
      for_rows([&](int m, int row) {
        const float inverse = scales.inverse(m, row);
        for_row(sum, m, row, [=](float& v, int, int) { v *= inverse; });
      });
    }
  }

  // ------------------------------------------------------------ the epilogue
  // Eight sums of a thread, accumulator order: channels k, k + 1, k + 8, k + 9 of a row and of the row eight below it,
  // as {row: k, k + 1}, {row + 8: k, k + 1}, {row: k + 8, k + 9}, {row + 8: k + 8, k + 9}.
  // Their scale and bias. What lies beyond the last channel is not stored.
  struct Affine {
    float scale[kHalves ? 4 : 1], bias[4];
    __device__ void apply(float (&v)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int channel = i / 4 * 2 + i % 2;
        if constexpr (kHalves) v[i] *= scale[channel];
        v[i] += bias[channel];
      }
    }
  };

  // Of consecutive groups of 16 channels; k is the first of this thread's.
  template <int kGroups>
  static __device__ void load_affine(const Params& p, int k, Affine (&affine)[kGroups]) {
    const auto for_each = [&](auto f) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i) f(affine[g], i, min(k + g * 16 + i / 2 * 8 + i % 2, p.K - 1));
    };
    const T* const bias = static_cast<const T*>(p.epilogue.bias);
    if constexpr (kHalves) for_each([&](Affine& a, int i, int at) { a.scale[i] = p.filter_scales[at]; });
    for_each([](Affine& a, int i, int) { a.bias[i] = 0; });
    if (bias) for_each([&](Affine& a, int i, int at) { a.bias[i] = to_float(bias[at]); });
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

  // Where 16 bytes of a staged slab lie: rows of kSlabBytes, in the swizzle of the store map.
  static __device__ uint32_t staged(uint32_t slab, int row, int chunk) {
    const int swizzle = kSlabBytes == 128 ? row % 8 : row / 2 % 4;
    return slab + row * kSlabBytes + (chunk ^ swizzle) * 16;
  }

  // Finishes a slab: adds bias and residual (which TMA has put where the slab goes), activates, rounds, and leaves it
  // staged.
  //
  // kPlain: no residual, and no activation but ReLU. This code runs once for every tile, mostly not from the
  // instruction cache: its length is its time.
  template <bool kPlain>
  static __device__ void stage_slab(const Params& p, Accumulators& acc, int slab, const Affine (&affine)[kSlab / 16],
                                    uint32_t stage, int row0) {
    const int lane = threadIdx.x % 32;
    const float low = p.epilogue.kind == ActivationKind::kRelu ? 0.f : -INFINITY;
    const auto finish = [&](float (&v)[8]) {
      if constexpr (kPlain) {
        for_all(v, [=](float x) { return max_or_nan(x, low); });
      } else {
        apply(p.epilogue, v);
      }
    };
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int g = 0; g < kSlab / 16; ++g) {
        float (&v)[8] = *reinterpret_cast<float (*)[8]>(&acc[m][slab * (kSlab / 2) + g * 8]);
        affine[g].apply(v);
        if constexpr (sizeof(T) == 2) {
          const uint32_t at = staged(stage, row0 + m * 64 + lane % 16, g * 2 + lane / 16);
          uint32_t words[4];
          if (!kPlain && p.epilogue.residual) {
            float z[8];
            load_matrices(words, at);
            unpack<T>(words, z);
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] += z[i];
          }
          finish(v);
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = pack_word(v + i * 2, static_cast<T*>(nullptr));
          store_matrices(at, words);
        } else {
          const auto at = [&](int i) {
            const int channel = g * 16 + i / 2 * 8 + lane % 4 * 2;
            return staged(stage, row0 + m * 64 + lane / 4 + i % 2 * 8, channel / 4) + channel % 4 * 4;
          };
          if (!kPlain && p.epilogue.residual) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 z = load_shared_pair(at(i));
              v[i * 2] += z.x, v[i * 2 + 1] += z.y;
            }
          }
          finish(v);
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
    const int on = t.input.n + n, od = t.output.d + d * p.out_step.d, oh = t.output.h + h * p.out_step.h,
              ow = t.output.w + w * p.out_step.w;
    if (n >= p.box_n || on >= p.N || od >= p.output.d || oh >= p.output.h || ow >= p.output.w) return -1;
    return (((int64_t(on) * p.output.d + od) * p.output.h + oh) * p.output.w + ow) * p.K;
  }

  // Where a thread's two rows of a row block go, for tiles whose sum is in pieces: they are added up by units of 16
  // channels and stored without staging.
  struct Rows {
    int64_t offset[kRowBlocks][2];
    __device__ Rows(const Params& p, const WorkItem& t, int row0) {
      const int row = row0 + threadIdx.x % 32 / 4;
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) offset[m][i] = pixel_offset(p, t, row + m * 64 + i * 8);
    }
  };

  static __device__ void store_unit(const Params& p, const WorkItem& t, int unit, const int64_t (&offset)[2],
                                    const float4 (&halves)[2]) {
    const int lane = threadIdx.x % 32, k = t.sum.k0 + unit * 16 + lane % 4 * 2;
    float v[8] = {halves[0].x, halves[0].y, halves[0].z, halves[0].w,
                  halves[1].x, halves[1].y, halves[1].z, halves[1].w};
    Affine affine[1];
    load_affine(p, k, affine);
    affine[0].apply(v);
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

  static __device__ void add(float4& sum, float4 v) { sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w; }

  // A tile's parts meet here, and nobody needs to wait for anybody. Of a few parts, the one that finds all others in
  // the workspace adds itself to them. Else a block leaves its own there too, and helps to add up: the last to come
  // takes every unit of the tile that no other has taken, and one with nothing else to do waits a little for that
  // moment. Each sum is in the order of the parts, whoever makes it.
  //
  // The tile's counter says how far it is: parts that have arrived, then units that are taken. Who takes the last one
  // leaves the counter ready for the next launch, its upper half one higher, so that late helpers see that the tile is
  // done.
  static __device__ void gather_parts(const Params& p, const WorkItem& t, const Accumulators& acc, bool decides,
                                      bool is_idle, int row0) {
    constexpr int kGroups = BN / 8;  // of four accumulators, in a row block
    constexpr int kUnits = BN / 16;
    constexpr int64_t kPatience = 20000;  // cycles: some parts may be rounds away
    const int parts = t.sum.parts, mine = t.part.part;
    const auto group_of = [&](int part, int m, int j) {
      return p.partials + int64_t(t.part.slot + part) * (BM * BN / 4) + (m * kGroups + j) * kTeamThreads + threadIdx.x;
    };
    const auto own = [&](int m, int j) {
      return make_float4(acc[m][j * 4], acc[m][j * 4 + 1], acc[m][j * 4 + 2], acc[m][j * 4 + 3]);
    };
    unsigned* const counter = p.counters + t.part.counter;
    __shared__ int decision[2];
    // One warp decides; what its first lane finds is every lane's, so that the warp stays together.
    const bool first_lane = threadIdx.x % 32 == 0;
    const auto everyones = [](unsigned v) { return __shfl_sync(0xffffffff, v, 0); };
    const auto look = [&] { return everyones(*static_cast<volatile unsigned*>(counter)); };
    unsigned now = 0;
    if (decides) {
      now = look();
      const bool last = parts <= kFewParts && int(now & 0xffff) == parts - 1;
      if (last && first_lane) atomicExch(counter, ((now >> 16) + 1) << 16);
      if (first_lane) decision[0] = last;
      __threadfence();
    }
    named_barrier(1, kTeamThreads);
    const bool alone = everyones(decision[0]);
    const Rows rows(p, t, row0);
    if (alone) {
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          float4 sums[2] = {};
          for (int part = 0; part < parts; ++part) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
              add(sums[i], part == mine ? own(m, unit * 2 + i) : __ldcg(group_of(part, m, unit * 2 + i)));
          }
          store_unit(p, t, unit, rows.offset[m], sums);
        }
      }
      named_barrier(1, kTeamThreads);  // the decision has been read
      return;
    }
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int j = 0; j < kGroups; ++j) __stcg(group_of(mine, m, j), own(m, j));
    __threadfence();
    named_barrier(1, kTeamThreads);

    if (decides) now = everyones(first_lane ? atomicAdd(counter, 1u) + 1 : 0);
    const unsigned launch = now >> 16;
    const int64_t start = clock64();
    const auto taken_by = [&](unsigned state) {
      return int(state & 0xffff) - parts + 1 == kUnits ? (launch + 1) << 16 : state + 1;
    };
    // Takes a unit, given how an attempt to take the one after `now` has ended.
    const auto take = [&](unsigned found, bool attempted) {
      while (now >> 16 == launch) {
        const int next = int(now & 0xffff) - parts;
        if (attempted && found == now) {
          now = taken_by(now);
          return next;
        }
        if (attempted) now = found;
        attempted = false;
        if (now >> 16 != launch) break;
        if (int(now & 0xffff) < parts) {
          if (!is_idle || everyones(clock64() - start > kPatience)) break;
          now = look();
          continue;
        }
        found = everyones(first_lane ? atomicCAS(counter, now, taken_by(now)) : 0);
        attempted = true;
      }
      return -1;
    };
    int unit = 0;
    // A loop that is left when units run out would make the compiler doubt that warps stay together, in the main loop
    // too.
    for (int turn = 0; turn <= kUnits; ++turn) {
      if (unit < 0) continue;
      // The next unit is asked for before this one is added up.
      unsigned found = 0;
      const bool attempt = turn > 0 && now >> 16 == launch;
      if (decides && attempt) found = first_lane ? atomicCAS(counter, now, taken_by(now)) : 0;
      if (turn > 0) {
#pragma unroll
        for (int m = 0; m < kRowBlocks; ++m) {
          float4 sums[2] = {};
#pragma unroll 4
          for (int part = 0; part < parts; ++part) {
#pragma unroll
            for (int i = 0; i < 2; ++i) add(sums[i], __ldcg(group_of(part, m, unit * 2 + i)));
          }
          store_unit(p, t, unit, rows.offset[m], sums);
        }
      }
      if (decides) {
        const int next = take(everyones(found), attempt);
        if (first_lane) decision[turn % 2] = next;
        __threadfence();
      }
      named_barrier(1, kTeamThreads);
      unit = int(everyones(decision[turn % 2]));
    }
    named_barrier(1, kTeamThreads);
  }

  // Adds the partial tiles of a cluster's blocks, in order, for this block's share of the channels, and stores them.
  static __device__ void reduce_over_cluster(const Params& p, const WorkItem& t, uint32_t partial, int rank, int row0) {
    constexpr int kUnits = BN / 16;
    const Rows rows(p, t, row0);
    for (int unit = kUnits * rank / p.splits; unit < kUnits * (rank + 1) / p.splits; ++unit) {
      float4 sums[2] = {};
      for (int peer = 0; peer < p.splits; ++peer) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
          add(sums[i], load_peer(peer_address(partial + ((unit * 2 + i) * 128 + threadIdx.x) * 16, peer)));
      }
      store_unit(p, t, unit, rows.offset[0], sums);
    }
  }

  // ------------------------------------------------------------ the math warpgroups
  static __device__ bool is_plain(const Epilogue& e) {
    const bool linear = e.kind == ActivationKind::kNone || e.kind == ActivationKind::kRelu;
    return kCurve == Curve::kPiecewiseLinear && !e.residual && linear;
  }

  template <bool kPlain>
  static __device__ void stage_tile(const Params& p, int k0, Accumulators& acc, uint32_t stages, const Barriers& bars,
                                    int team, PipelineState& at, int row0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      const int k = k0 + slab * kSlab;
      if (k >= p.K) continue;
      Affine affine[kSlab / 16];
      load_affine(p, k + lane % 4 * 2, affine);
      barrier_wait(shared_address(&bars.ready[team][at.stage]), at.parity);
      stage_slab<kPlain>(p, acc, slab, affine, stages + team * kStagedBytes + at.stage * (BM * kSlabBytes), row0);
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&bars.staged[team][at.stage]));
      at.advance(kStaged);
    }
  }

  static __device__ void consume(const Params& p, WorkReader work, uint32_t tiles, uint32_t stages,
                                 const Barriers& bars, int warp, int rank) {
    const int wg = warp / 4, team = kAlternate ? wg : 0, first_block = kTeam == Team::kShared ? wg * kRowBlocks : 0;
    const int lane = threadIdx.x % 32, row0 = first_block * 64 + warp % 4 * 16;
    const uint32_t a = tiles + (kHalves ? (row0 + lane / 4) * 128 : first_block * (64 * 128));
    Ring ring{kHalves ? a : descriptor_low(a),
              descriptor_low(tiles + kABytes),
              shared_address(bars.full),
              shared_address(bars.empty),
              p.stages,
              3 + wg};
    // Alternating warpgroups take turns at the main loop: the parity of a stage's barrier says nothing to one that
    // waits for a k-block more than a lap ahead.
    const auto wait_turn = [&](int use) {
      if (kAlternate && (team == 1 || use > 0)) barrier_wait(shared_address(&bars.turn[team]), (use - (team == 0)) & 1);
    };
    // By every warp: else one that is late could miss a phase that the other team has already followed by the next.
    const auto pass_turn = [&] {
      if (kAlternate && lane == 0) barrier_arrive(shared_address(&bars.turn[team ^ 1]));
    };

    wait_for_previous_grid();
    const bool plain = is_plain(p.epilogue);
    PipelineState slab_at;
    for (int round = 0; work.next(); ++round) {
      const auto& sum = work.sum();
      const int total = sum.hi - sum.lo;
      const int count = total * (rank + 1) / p.splits - total * rank / p.splits;
      if (kAlternate && round % 2 != team) {
        ring.at.skip(p.stages, count);
        continue;
      }
      Accumulators acc;
      wait_turn(round / 2);
      if constexpr (kHalves) {
        multiply_halves(ring, count, row0 + lane / 4, p.box_bytes / 128, acc, pass_turn);
      } else {
        multiply(ring, count, acc, pass_turn);
      }
      if (p.splits == 1 && sum.parts == 1) {
        if (plain) {
          stage_tile<true>(p, sum.k0, acc, stages, bars, team, slab_at, row0);
        } else {
          stage_tile<false>(p, sum.k0, acc, stages, bars, team, slab_at, row0);
        }
      } else if (p.splits == 1) {
        if constexpr (kCanBeCut) gather_parts(p, work.item(), acc, warp == 0, work.at_end(), row0);
      } else if constexpr (kTeam == Team::kSolo) {
        const uint32_t ready = shared_address(&bars.partial_ready), read = shared_address(&bars.partial_read);
        barrier_wait_cluster(read, (round & 1) ^ 1);  // every peer has read the last partial tile
#pragma unroll
        for (int j = 0; j < BN / 2; j += 4)
          store_shared(stages + (j / 4 * 128 + threadIdx.x) * 16,
                       make_float4(acc[0][j], acc[0][j + 1], acc[0][j + 2], acc[0][j + 3]));
        named_barrier(1, kTeamThreads);
        if (threadIdx.x < p.splits) barrier_arrive_peer(peer_address(ready, threadIdx.x));
        barrier_wait_cluster(ready, round & 1);
        reduce_over_cluster(p, work.item(), stages, rank, row0);
        named_barrier(1, kTeamThreads);
        if (threadIdx.x < p.splits) barrier_arrive_peer(peer_address(read, threadIdx.x));
      }
    }
  }
};

template <class Math, Team kTeam, int kRowBlocks, int BN, Curve kCurve>
__global__ void __launch_bounds__(TileShape{kTeam, kRowBlocks, BN}.threads(),
                                  TileShape{kTeam, kRowBlocks, BN}.max_blocks_per_sm(Math::kProducts))
    hopper_conv(const __grid_constant__ Params p) {
  using C = HopperConv<Math, kTeam, kRowBlocks, BN, kCurve>;
  extern __shared__ uint8_t dynamic[];
  __shared__ __align__(8) typename C::Barriers bars;
  const uint32_t tiles = (shared_address(dynamic) + 1023) & ~1023u;  // what the 128-byte swizzle wants
  const uint32_t stages = tiles + p.stages * C::kStageBytes;
  const int rank = p.splits > 1 ? int(cluster_rank()) : 0;
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0);  // the shuffle makes it uniform
  const WorkReader work(p, blockIdx.x / p.splits);                // the plan is older than the previous grid
  if (warp == 0) C::init(bars, p);
  if (threadIdx.x == C::kMathWarps * 32) {
    prefetch_map(&p.x);
    prefetch_map(&p.filter);
    prefetch_map(&p.y);
  }
  if (p.splits > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  // The next grid may set itself up while this one runs. Each role waits for the previous one before it touches what
  // that may have written or may still read.
  launch_dependents();
  if (warp < C::kMathWarps) {
    if constexpr (C::kTakesRegisters) take_registers<224>();
    C::consume(p, work, tiles, stages, bars, warp, rank);
  } else {
    if constexpr (C::kTakesRegisters) give_up_registers<56>();
    const int role = warp - C::kMathWarps;
    if (role == 0) C::produce(p, work, tiles, bars, rank);
    if (role >= 1 && role <= C::kTeams && p.splits == 1)
      C::store(p, work, stages + (role - 1) * C::kStagedBytes, bars, role - 1);
  }
  if (p.splits > 1) cluster_sync();  // peers may still read this block's shared memory
}

}  // namespace cks::cuda::hopper

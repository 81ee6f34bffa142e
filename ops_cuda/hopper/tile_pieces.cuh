// Tiles whose sum is in parts, which meet in a workspace; and how sums in pieces are stored, there and in clusters.
#pragma once
#include "ops_cuda/hopper/tile_epilogue.cuh"

namespace cks::cuda::hopper {

template <class Tile>
struct TilePieces {
  using Ending = TileEpilogue<Tile>;
  using T = typename Tile::T;
  using Pieces = WorkReader::Pieces;
  using Accumulators = typename Tile::Accumulators;
  static constexpr int BM = Tile::BM, BN = Tile::BN, kRowBlocks = Tile::kRowBlocks, kTeamThreads = Tile::kTeamThreads;

  // Element offset of channel 0 of a tile row's output pixel, or -1 where the box hangs over the output.
  static __device__ int64_t pixel_offset(const Params& p, const Pieces& t, int row) {
    const auto split = [](int& rest, Divider by) {
      const int quotient = by.quotient(rest), remainder = rest - quotient * by.divisor;
      rest = quotient;
      return remainder;
    };
    int n = row;
    const int w = split(n, p.box_w), h = split(n, p.box_h), d = split(n, p.box_d);
    const int on = t.input.n + n, od = t.output.d + d * p.out_step.d, oh = t.output.h + h * p.out_step.h,
              ow = t.output.w + w * p.out_step.w;
    if (n >= p.box_n || on >= p.N || od >= p.output.d || oh >= p.output.h || ow >= p.output.w) return -1;
    return (((int64_t(on) * p.output.d + od) * p.output.h + oh) * p.output.w + ow) * p.K;
  }

  // Where a thread's two rows of a row block go, for tiles whose sum is in pieces: they are added up by units of 16
  // channels and stored without staging.
  struct Rows {
    int64_t offset[kRowBlocks][2];
    __device__ Rows(const Params& p, const Pieces& t, int row0) {
      const int row = row0 + threadIdx.x % 32 / 4;
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
        for (int i = 0; i < 2; ++i) offset[m][i] = pixel_offset(p, t, row + m * 64 + i * 8);
    }
  };

  // A unit: 16 channels of a warp's 16 rows. Of a thread's eight sums in it, where they go and what is added to them;
  // all that can be known before the sums.
  class Unit {
   public:
    __device__ Unit(const Params& p, const Pieces& t, int unit, const int64_t (&offset)[2])
        : k_(t.sum.k0 + unit * 16 + threadIdx.x % 4 * 2), offset_{offset[0], offset[1]} {
      Ending::load_affine(p, k_, affine_);
      if (!p.epilogue.residual) return;
      for_pairs(p, [&](int i, int64_t at) {
        const auto pair = *reinterpret_cast<const Pair*>(static_cast<const T*>(p.epilogue.residual) + at);
        float (&v)[2] = *reinterpret_cast<float (*)[2]>(&residual_[i * 2]);
        unpack<T>(pair.word, v);
      });
    }
    __device__ void store(const Params& p, const float4 (&halves)[2]) const {
      float v[8] = {halves[0].x, halves[0].y, halves[0].z, halves[0].w,
                    halves[1].x, halves[1].y, halves[1].z, halves[1].w};
      affine_[0].apply(v);
      if (p.epilogue.residual) {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = add_leaky(v[i], residual_[i], p.epilogue.residual_slope);
      }
      Ending::apply(p.epilogue, v, k_);
      for_pairs(p, [&](int i, int64_t at) {
        Pair pair;
#pragma unroll
        for (int word = 0; word < kPairWords; ++word)
          pair.word[word] = pack_word(v + i * 2 + word, static_cast<T*>(nullptr));
        *reinterpret_cast<Pair*>(static_cast<T*>(p.epilogue.y) + at) = pair;
      });
    }

   private:
    // Two neighbouring channels: aligned, because a pixel's are whole chunks of 16 bytes.
    static constexpr int kPairWords = int(sizeof(T)) / 2;
    using Pair = Words<kPairWords>;

    // Calls f(pair, element offset) for those that exist.
    template <class F>
    __device__ void for_pairs(const Params& p, F f) const {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = k_ + i / 2 * 8;
        if (offset_[i % 2] >= 0 && k < p.K) f(i, offset_[i % 2] + k);
      }
    }
    int k_;
    int64_t offset_[2];
    typename Ending::Affine affine_[1];
    float residual_[8] = {};
  };

  // Of a thread's accumulators, four: two neighbouring channels of a row and of the row eight below it.
  static __device__ float4 group(const Accumulators& acc, int m, int j) {
    return make_float4(acc[m][j * 4], acc[m][j * 4 + 1], acc[m][j * 4 + 2], acc[m][j * 4 + 3]);
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
  static __device__ void gather_parts(const Params& p, const Pieces& t, const Accumulators& acc, bool decides,
                                      bool is_idle, int row0) {
    constexpr int kGroups = BN / 8;  // of four accumulators, in a row block
    constexpr int kUnits = BN / 16;
    constexpr int64_t kPatience = 20000;  // cycles: some parts may be rounds away
    const int parts = t.sum.parts, mine = t.part.part;
    const auto group_of = [&](int part, int m, int j) {
      return p.partials + int64_t(t.part.slot + part) * (BM * BN / 4) + (m * kGroups + j) * kTeamThreads + threadIdx.x;
    };
    const auto own = [&](int m, int j) { return group(acc, m, j); };
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
          Unit(p, t, unit, rows.offset[m]).store(p, sums);
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
          Unit(p, t, unit, rows.offset[m]).store(p, sums);
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
};

}  // namespace cks::cuda::hopper

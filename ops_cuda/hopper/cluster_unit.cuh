// What a warp of a cluster adds up at once, a unit: 16 channels of its 16 rows of a tile.
#pragma once
#include "ops_cuda/hopper/tile_epilogue.cuh"

namespace cks::cuda::hopper {

// Where a tile lies.
struct Place {
  WorkItem::Sum sum;
  WorkItem::Input input;
  WorkItem::Output output;
};

// Of a thread's eight sums in a unit, where they go and what is added to them: all that can be known before the sums.
// They are stored without staging.
template <class Tile>
class ClusterUnit {
  using Ending = TileEpilogue<Tile>;
  using T = typename Tile::T;

 public:
  // Element offsets of channel 0 of a thread's two rows, which all units of its warp have.
  struct Rows {
    int64_t offset[2];
    __device__ Rows(const Params& p, const Place& t, int row0)
        : offset{pixel_offset(p, t, row0 + threadIdx.x % 32 / 4), pixel_offset(p, t, row0 + threadIdx.x % 32 / 4 + 8)} {
    }
  };

  // The unit that begins at the tile's channel 16 * column; affines: the tile's. By all lanes of a warp together.
  __device__ ClusterUnit(const Params& p, const Place& t, int column, const Rows& rows,
                         const typename Ending::Affines& affines)
      : k_(t.sum.k0 + column * 16 + threadIdx.x % 4 * 2), rows_(rows) {
    if constexpr (Ending::kHoldsAffines) {
      affine_[0] = affines.of_group(column);
    } else {
      Ending::load_affine(p, k_, affine_);
    }
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
      if (rows_.offset[i % 2] >= 0 && k < p.K) f(i, rows_.offset[i % 2] + k);
    }
  }
  // Of a tile row's output pixel, or -1 where the box hangs over the output.
  static __device__ int64_t pixel_offset(const Params& p, const Place& t, int row) {
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

  int k_;
  Rows rows_;
  typename Ending::Affine affine_[1];
  float residual_[8] = {};
};

}  // namespace cks::cuda::hopper

// A tile's sum that the blocks of a cluster have divided among themselves, added up through distributed shared memory.
#pragma once
#include "ops_cuda/hopper/cluster_unit.cuh"

namespace cks::cuda::hopper {

// A block's only tile. Each of the blocks that share it, a power of two whose ranks follow each other, adds up as many
// units of it as every other. A block sends its sums from registers to the inboxes of those whose units they are, whose
// barriers count the bytes, and leaves its own in its inbox; each unit is added up in the order of the ranks. A block
// may end once it has seen its inbox full: nobody sends to it any more.
template <class Tile>
class ClusterSum {
 public:
  __device__ ClusterSum(int sharers, uint32_t inbox, const typename Tile::Barriers& bars)
      : inbox_(inbox),
        full_(shared_address(&bars.inbox_full)),
        sharers_(sharers),
        rank_(int(cluster_rank()) & (sharers - 1)),
        first_(int(cluster_rank()) - rank_),
        log_share_(log2_of(kUnits / sharers)) {}

  // By all math warps of a block.
  __device__ void add_up(const Params& p, const Place& t, const typename Tile::Accumulators& acc,
                         const typename TileEpilogue<Tile>::Affines& affines) const {
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    if (threadIdx.x == 0) barrier_expect(full_, (kUnits - (1 << log_share_)) * kUnitBytes);
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int unit = column * kWarps + warp, owner = owner_of(unit);
      const uint32_t to = inbox(rank_, unit) + lane * sizeof(float4);
      const auto send = [&](auto store) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float* const v = &acc[0][(column * 2 + i) * 4];
          store(i * kGroupBytes, make_float4(v[0], v[1], v[2], v[3]));
        }
      };
      if (owner == rank_) {
        send([&](int offset, float4 v) { store_shared(to + offset, v); });
      } else {
        const uint32_t at = peer_address(to, first_ + owner), full = peer_address(full_, first_ + owner);
        send([&](int offset, float4 v) { store_to_peer(at + offset, v, full); });
      }
    }
    // A warp adds up those of its units that are this block's: a lane what it has left there itself, and the same of
    // the others.
    const typename ClusterUnit<Tile>::Rows rows(p, t, warp * 16);
#pragma unroll 1
    for (int column = 0; column < kColumns; ++column) {
      const int unit = column * kWarps + warp;
      if (owner_of(unit) != rank_) continue;
      const ClusterUnit<Tile> ending(p, t, column, rows, affines);
      barrier_wait(full_, 0);
      float4 sums[2] = {};
#pragma unroll 2
      for (int peer = 0; peer < sharers_; ++peer) {
        const uint32_t from = inbox(peer, unit) + lane * sizeof(float4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 v = load_shared(from + i * kGroupBytes);
          sums[i].x += v.x, sums[i].y += v.y, sums[i].z += v.z, sums[i].w += v.w;
        }
      }
      ending.store(p, sums);
    }
  }

 private:
  // A unit is 16 channels of a warp's 16 rows: of each thread's sums, two groups of four. Units count by columns, the
  // warps of a column first, and each rank has so many of them that follow each other.
  static constexpr int kWarps = Tile::kMathWarps, kColumns = Tile::BN / 16, kUnits = kWarps * kColumns,
                       kGroupBytes = 32 * sizeof(float4), kUnitBytes = 2 * kGroupBytes;
  static_assert(Tile::BM == kWarps * 16);

  static __device__ int log2_of(int power) { return 31 - __clz(power); }
  __device__ int owner_of(int unit) const { return unit >> log_share_; }
  // Where a rank's sums of a unit come to lie, in its owner's inbox.
  __device__ uint32_t inbox(int from, int unit) const {
    const int slot = unit & ((1 << log_share_) - 1);
    return inbox_ + ((from << log_share_) + slot) * kUnitBytes;
  }

  uint32_t inbox_, full_;
  int sharers_, rank_, first_;  // blocks of the tile; this one among them, and the rank of the first in the cluster
  int log_share_;               // units of an owner
};

}  // namespace cks::cuda::hopper

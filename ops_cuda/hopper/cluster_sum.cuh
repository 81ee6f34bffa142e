// A tile's sum that the blocks of a cluster have divided among themselves, added up through distributed shared memory.
#pragma once
#include "ops_cuda/hopper/cluster_unit.cuh"

namespace cks::cuda::hopper {

// A block's only tile. Each of the blocks that share it, a power of two whose ranks follow each other, adds up as many
// units of it as every other. A block lays out its sums for those whose units they are in an outbox, where its ring of
// k-blocks was, and bulk copies take them to the inboxes of its peers, whose barriers count the bytes; its own go
// straight to its inbox. Each unit is added up in the order of the ranks.
template <class Tile>
class ClusterSum {
 public:
  __device__ ClusterSum(int sharers, uint32_t inbox, uint32_t outbox, const typename Tile::Barriers& bars)
      : inbox_(inbox),
        outbox_(outbox),
        full_(shared_address(&bars.inbox_full)),
        sharers_(sharers),
        rank_(int(cluster_rank()) & (sharers - 1)),
        first_(int(cluster_rank()) - rank_),
        log_share_(log2_of(kUnits / sharers)),
        log_columns_(max(log_share_ - kLogWarps, 0)) {}

  // By all math warps of a block. They tell the cluster, without waiting, once nobody copies to this block any more.
  __device__ void add_up(const Params& p, const Place& t, const typename Tile::Accumulators& acc) {
    const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    if (threadIdx.x == 0) barrier_expect(full_, (kUnits - (1 << log_share_)) * kUnitBytes);
    named_barrier(1, Tile::kTeamThreads);  // all have multiplied what the ring held
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int owner = owner_of(warp, column), slot = slot_of(warp, column);
      const uint32_t to = (owner == rank_ ? inbox(rank_, slot) : outbox(owner, slot)) + lane * sizeof(float4);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* const v = &acc[0][(column * 2 + i) * 4];
        store_shared(to + i * kGroupBytes, make_float4(v[0], v[1], v[2], v[3]));
      }
    }
    fence_async_proxy();
    __syncwarp();
    const bool elected = elect_lane();
#pragma unroll 1
    for (int column = 0; column < kColumns; column += 1 << log_columns_) {
      const int owner = owner_of(warp, column), slot = slot_of(warp, column);
      if (owner != rank_ && elected)
        copy_to_peer(peer_address(inbox(rank_, slot), first_ + owner), outbox(owner, slot), kUnitBytes << log_columns_,
                     peer_address(full_, first_ + owner));
    }
    // A warp takes those units of which it has left the block's own sums in the inbox.
    const typename ClusterUnit<Tile>::Rows rows(p, t, warp * 16);
    bool full = false;
    const auto wait_for_peers = [&] {
      if (full) return;
      barrier_wait(full_, 0);
      cluster_arrive();
      full = true;
    };
#pragma unroll 1
    for (int column = 0; column < kColumns; ++column) {
      if (owner_of(warp, column) != rank_) continue;
      const ClusterUnit<Tile> ending(p, t, column, rows);
      wait_for_peers();
      float4 sums[2] = {};
#pragma unroll 2
      for (int peer = 0; peer < sharers_; ++peer) {
        const uint32_t from = inbox(peer, slot_of(warp, column)) + lane * sizeof(float4);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float4 v = load_shared(from + i * kGroupBytes);
          sums[i].x += v.x, sums[i].y += v.y, sums[i].z += v.z, sums[i].w += v.w;
        }
      }
      ending.store(p, sums);
    }
    wait_for_peers();
  }

 private:
  // A unit is 16 channels of a warp's 16 rows: of each thread's sums, two groups of four. Units count by columns, the
  // warps of a column first, and each rank has so many of them that follow each other.
  static constexpr int kWarps = Tile::kMathWarps, kLogWarps = kWarps == 4 ? 2 : 3, kColumns = Tile::BN / 16,
                       kUnits = kWarps * kColumns, kGroupBytes = 32 * sizeof(float4), kUnitBytes = 2 * kGroupBytes;
  static_assert(Tile::BM == kWarps * 16 && 1 << kLogWarps == kWarps);

  static __device__ int log2_of(int power) { return 31 - __clz(power); }
  __device__ int owner_of(int warp, int column) const { return (column * kWarps + warp) >> log_share_; }
  // Where a unit lies among those of its owner: a warp's side by side, so that one copy takes them.
  __device__ int slot_of(int warp, int column) const {
    return ((warp & ((1 << min(log_share_, kLogWarps)) - 1)) << log_columns_) + (column & ((1 << log_columns_) - 1));
  }
  // A rank's sums of a unit of this block's.
  __device__ uint32_t inbox(int from, int slot) const { return inbox_ + ((from << log_share_) + slot) * kUnitBytes; }
  // This block's, of another rank's.
  __device__ uint32_t outbox(int owner, int slot) const {
    return outbox_ + ((owner << log_share_) + slot) * kUnitBytes;
  }

  uint32_t inbox_, outbox_, full_;
  int sharers_, rank_, first_;   // blocks of the tile; this one among them, and the rank of the first in the cluster
  int log_share_, log_columns_;  // units of an owner; of them, a warp's
};

}  // namespace cks::cuda::hopper

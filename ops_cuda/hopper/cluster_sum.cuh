// A tile's sum that the blocks of a cluster have divided among themselves, added up through distributed shared memory.
#pragma once
#include "ops_cuda/hopper/tile_pieces.cuh"

namespace cks::cuda::hopper {

// Each rank adds up as many units of the tile as every other. A block sends its sums to those whose units they are,
// into an inbox whose barrier counts the bytes, and adds up what is sent to it, in the order of the ranks.
template <class Tile>
class ClusterSum {
 public:
  __device__ ClusterSum(const Params& p, uint32_t inbox, const typename Tile::Barriers& bars)
      : inbox_(inbox),
        full_(shared_address(&bars.inbox_full)),
        read_(shared_address(&bars.inbox_read)),
        rank_(cluster_rank()),
        log_share_(p.log_share) {}

  // By all math warps of a block, for the item of this round.
  __device__ void add_up(const Params& p, const WorkReader::Pieces& t, const typename Tile::Accumulators& acc,
                         int round, bool is_last) {
    const int warp = threadIdx.x / 32, share = 1 << log_share_, parity = round & 1;
    if (round == 0) {
      cluster_wait();  // the peers' barriers are ready
    } else {
      barrier_wait(read_, parity ^ 1);  // the peers have read what they were sent before
    }
    if (threadIdx.x == 0) barrier_expect(full_, Tile::BM * Tile::BN * sizeof(float));
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      const int unit = column * 4 + warp, owner = unit >> log_share_;
      const uint32_t to = peer_address(inbox_ + slot(rank_, unit & (share - 1)), owner),
                     bar = peer_address(full_, owner);
#pragma unroll
      for (int i = 0; i < 2; ++i)
        store_peer(to + i * kGroupBytes, TilePieces<Tile>::group(acc, 0, column * 2 + i), bar);
    }
    for (int mine = warp; mine < share; mine += 4) {
      const int unit = (rank_ << log_share_) + mine;
      const typename TilePieces<Tile>::Rows rows(p, t, unit % 4 * 16);
      const typename TilePieces<Tile>::Unit ending(p, t, unit / 4, rows.offset[0]);
      barrier_wait(full_, parity);
      float4 sums[2] = {};
      for (int peer = 0; peer < p.splits; ++peer) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
          TilePieces<Tile>::add(sums[i], load_shared(inbox_ + slot(peer, mine) + i * kGroupBytes));
      }
      ending.store(p, sums);
    }
    // Whoever has nothing to add must not send into an inbox that its block has not seen fill up.
    barrier_wait(full_, parity);
    __syncwarp();
    const int lane = threadIdx.x % 32;
    if (!is_last && lane < p.splits) barrier_arrive_peer(peer_address(read_, lane));
  }

 private:
  // A unit is 16 channels of a warp's 16 rows: of each thread's sums, two groups of four.
  static constexpr int kColumns = Tile::BN / 16, kGroupBytes = 32 * sizeof(float4);
  static_assert(Tile::BM == 64);

  // Where this lane's sums of one of the block's units lie, as a rank has sent them.
  __device__ uint32_t slot(int from, int unit) const {
    return ((from << log_share_) + unit) * (2 * kGroupBytes) + threadIdx.x % 32 * sizeof(float4);
  }

  uint32_t inbox_, full_, read_;
  int rank_, log_share_;
};

}  // namespace cks::cuda::hopper

// Which cluster of blocks does which tiles: whole ones in turns, shared by the blocks of a cluster, or cut into parts
// that even out the work. Pure host code.
#pragma once
#include <span>
#include <vector>

#include "ops_cuda/hopper/schedule_cost.h"

namespace cks::cuda::hopper {

// Tiles, and who is there to do them.
struct Workload {
  std::span<const int> lengths;  // of the tiles, in k-blocks, longest first
  int columns = 1;               // of tiles, all of these lengths
  int clusters = 0;
  int splits = 1;  // blocks of a cluster, where they share tiles
  bool can_be_cut = false;
  std::vector<int> sharers;  // of each tile, where the blocks of a cluster share tiles (share_tiles); else none
  Cost cost{};

  int64_t tiles() const { return int64_t(lengths.size()) * columns; }
};

// What a cluster does for a tile: k-blocks [lo, hi) of its sum. The one that has the last of them stores it; the
// others, `before` it, leave theirs to it. A cluster has its pieces in the order of their turns. Its blocks from
// `first_rank` on, as many as share the tile, have a share each.
struct Piece {
  enum Turn { kInStep, kLeaves, kWhole, kWaits };
  int tile, column, lo, hi, before;
  Turn turn;
  int first_rank = 0, sharers = 1;
  bool stores() const { return turn != kLeaves; }
};

// How many blocks of a cluster of `splits` share each tile, a power of two: twice as many for the tiles of the longest
// shares, as long as a cluster and the GPU's `blocks` allow. Empty where there are more tiles than blocks, or where
// smaller clusters would do.
std::vector<int> share_tiles(std::span<const int> lengths, int columns, int splits, int64_t blocks);

// An even share of all tiles: no way to deal them takes fewer cycles.
double even_share(const Workload&);

// How long the tiles take, and whether they are cut for that.
struct Deal {
  double cycles;
  bool cut;
};
Deal choose_deal(const Workload&);

// The pieces of each cluster, and the cycles until the last is done.
struct Dealt {
  std::vector<std::vector<Piece>> pieces;
  double cycles;
};
Dealt deal(const Workload&, const Deal&);

}  // namespace cks::cuda::hopper

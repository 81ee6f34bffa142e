// How the sums of the portable kernel's tiles are cut into pieces where there are few tiles: blocks leave their sums in
// a workspace, and a second launch adds them up, in order. Pure host code.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace cks::cuda {

// A thread block's share of a tile's sum, for each group and each tile of the group's channels.
struct alignas(16) Piece {
  static constexpr int32_t kWhole = -1;
  int32_t tile, first, count;  // k-blocks [first, first + count) of the tile
  int32_t part;                // where its sums lie in the workspace; kWhole: it is all of the tile, and stored at once
};

// A tile in several pieces: parts [first_part, first_part + parts), in the order of their k-blocks.
struct alignas(16) CutTile {
  int32_t tile, first_part, parts;
};

struct Pieces {
  std::vector<Piece> pieces;
  std::vector<CutTile> cut_tiles;
  int32_t parts = 0;
};

// Pieces of at most `longest` k-blocks, those of a tile of equal length but for one k-block. lengths: of the tiles.
Pieces cut_sums(std::span<const int32_t> lengths, int32_t longest);

}  // namespace cks::cuda

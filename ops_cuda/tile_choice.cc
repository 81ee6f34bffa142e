#include "ops_cuda/tile_choice.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace cks::cuda {
namespace {

// The model of time, fitted to an H200 (docs/notebook.md). Its unit is a pixel times an output channel, summed over a
// k-block, which is 128 bytes of the index here whatever the rows of a tile are: 16384 of them take about 1 us.
constexpr int kKBlockBytes = 128;
constexpr double kTileKBlocks = 0.8;    // what the start and the end of a block cost
constexpr double kSecondLaunch = 75e3;  // that adds the parts up
constexpr double kPartElement = 7.5;    // written by one block and read by another
constexpr double kShortestPiece = 4;    // k-blocks
constexpr int kMostRounds = 4;          // of blocks: more even out by themselves

// Of a k-block, when the multiprocessor has other blocks to run beside this one: the operands that it loads from shared
// memory and L2 bound a small tile, the products a large one; short rows meet more barriers.
double block_cost(const TileShape& tile) {
  return std::max(double(tile.m) * tile.n, 60.0 * (tile.m + tile.n)) * (tile.row_bytes < kKBlockBytes ? 1.1 : 1.0);
}

// Blocks of a tile that a multiprocessor holds. Beside its slots a block has a table of its rows, and 1 KB that CUDA
// keeps.
int64_t fitting(const TileShape& tile, const Device& device) {
  const int64_t by_memory = device.shared_bytes / (tile.pipeline_bytes() + 24 * tile.m + 1024);
  return std::min<int64_t>(by_memory, tile.resident);
}

int64_t rounds(int64_t blocks, const Device& device) { return ceil_div(blocks, device.multiprocessors); }

// Of blocks that sum so many k-blocks each, in the mean.
double time_of(const TileShape& tile, int64_t blocks, double length, bool cut, const Device& device) {
  const int64_t busiest = rounds(blocks, device), together = std::min(busiest, fitting(tile, device));
  // Blocks that share a multiprocessor share its tensor cores, but hide each other's latency.
  const double speed = together == tile.resident ? 1.0 : 0.45;
  const double multiply = double(busiest) * block_cost(tile) * (length + kTileKBlocks) / speed;
  return multiply + (cut ? kSecondLaunch + kPartElement * double(busiest) * tile.m * tile.n : 0);
}

}  // namespace

int choose_tile(const TileQuery& query) {
  int best = -1;
  double least = 0;
  const double length = query.summed_bytes / kKBlockBytes;
  for (int i = 0; i < int(std::size(kTileShapes)); ++i) {
    const TileShape& tile = kTileShapes[i];
    if (fitting(tile, query.device) == 0) continue;
    const int64_t tiles = ceil_div(query.pixels, tile.m) * ceil_div(query.channels, tile.n) * query.groups;
    for (int64_t parts = 1; parts == 1 || length >= kShortestPiece * double(parts); ++parts) {
      const double time = time_of(tile, tiles * parts, length / double(parts), parts > 1, query.device);
      if (best < 0 || time < least || (time == least && parts == 1)) best = i, least = time;
      if (rounds(tiles * parts, query.device) > kMostRounds) break;
    }
  }
  return best;
}

int32_t longest_piece(std::span<const int32_t> lengths, int64_t copies, const TileShape& tile, const Device& device) {
  int32_t best = INT32_MAX;
  double least = 0;
  const int64_t sum = std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
  const double k_blocks = double(tile.row_bytes) / kKBlockBytes;  // of this tile's
  for (int32_t parts = 1;; ++parts) {                             // of the longest
    const int32_t longest = parts == 1 ? INT32_MAX : int32_t(ceil_div(std::ranges::max(lengths), parts));
    if (longest * k_blocks < kShortestPiece) return best;
    int64_t pieces = 0;
    for (const int32_t length : lengths) pieces += std::max<int64_t>(ceil_div(length, longest), 1);
    const double time = time_of(tile, pieces * copies, double(sum) / double(pieces) * k_blocks, parts > 1, device);
    if (parts == 1 || time < least) best = longest, least = time;
    if (rounds(pieces * copies, device) > kMostRounds) return best;
  }
}

Box wide_box(const Problem& p, int rows) {
  constexpr int64_t kWidest = 32;  // a warp's worth; wider boxes have fewer rows to share what a filter overlaps
  Box box;
  int64_t left = rows;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t step = p.filter.op == Operator::kConvTranspose ? p.stride[axis] : 1;
    const int64_t count = ceil_div(p.output[axis], step);
    const int64_t most = std::max<int64_t>(1, axis == 2 ? std::min(left, kWidest) : left);
    box.extent[axis] = int32_t(ceil_div(count, ceil_div(count, most)));  // boxes of equal size
    left /= box.extent[axis];
  }
  box.n = int32_t(std::clamp<int64_t>(left, 1, std::max<int64_t>(1, p.N)));
  return box;
}

}  // namespace cks::cuda

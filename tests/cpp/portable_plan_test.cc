// What the portable kernel is to do, without a GPU: every k-block of every tile is in one piece, and the sums of few
// tiles are cut.
#include "ops_cuda/portable_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops_cuda/pack.h"
#include "tests/cpp/random_problem.h"

using namespace cks;
using namespace cks::cuda;
using namespace cks::test;

namespace {

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  if (++failed <= 20) std::printf("FAILED: %s\n", what);
}

// Pieces must hold each k-block of each tile once, in order.
void check_pieces(std::span<const int32_t> lengths, const Pieces& cut, int32_t longest) {
  std::vector<std::vector<Piece>> of_tile(lengths.size());
  for (const Piece& p : cut.pieces) of_tile[size_t(p.tile)].push_back(p);
  std::vector<int32_t> parts;  // all that are named
  for (size_t tile = 0; tile < lengths.size(); ++tile) {
    std::vector<Piece>& pieces = of_tile[tile];
    std::ranges::sort(pieces, {}, &Piece::first);
    const auto at = std::ranges::find(cut.cut_tiles, int32_t(tile), &CutTile::tile);
    const bool whole = at == cut.cut_tiles.end();
    expect(pieces.size() == (whole ? 1u : size_t(at->parts)), "a tile has as many pieces as parts");
    int32_t end = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Piece& p = pieces[i];
      expect(p.first == end && p.count <= longest, "pieces follow each other, none too long");
      expect(p.part == (whole ? Piece::kWhole : at->first_part + int32_t(i)), "parts are in the order of k-blocks");
      if (!whole) parts.push_back(p.part);
      end += p.count;
    }
    expect(end == lengths[tile], "they hold all of the sum");
    expect(whole == (lengths[tile] <= longest), "a tile is cut where it is too long");
  }
  std::ranges::sort(parts);
  std::vector<int32_t> all(size_t(cut.parts));
  std::iota(all.begin(), all.end(), 0);
  expect(parts == all, "each part is one piece's");
  expect(std::ranges::is_sorted(cut.pieces, std::greater<>{}, &Piece::count), "the longest come first");
}

void test_lengths() {
  const std::vector<int32_t> lengths{72, 72, 31, 9, 8, 1, 0};
  for (const int32_t longest : {1, 5, 8, 30, 72, INT32_MAX}) check_pieces(lengths, cut_sums(lengths, longest), longest);
}

void test_random_problems() {
  std::mt19937 random(1);
  int cut = 0, all = 0;
  for (int i = 0; i < 1500; ++i) {
    const Operator op = i % 2 ? Operator::kConvTranspose : Operator::kConv;
    const Problem p = random_problem(random, op, Kind(i % 3));
    if (p.N == 0 || is_direct(p.filter)) continue;
    const DataType type = i % 5 < 3 ? DataType::kHalf : DataType::kFloat;
    const int multiprocessors = int(pick(random, {1, 2, 8, 40, 132})), shared_kb = int(pick(random, {64, 100, 228}));
    const Layout layout = pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW;
    const PortablePlan r = plan_portable(p, type, layout, {80, multiprocessors, shared_kb << 10});
    const TileShape& tile = kTileShapes[r.shape];
    expect(r.plan.box.pixels() <= tile.m, "a tile holds its pixels");
    const int64_t channels = padded_channels(gemm_groups(p.filter).c, type),
                  in_block = tile.row_bytes / int64_t(size_of(type));
    std::vector<int32_t> lengths;
    for (const Tile& t : r.plan.tiles) lengths.push_back(int32_t(ceil_div(t.num_taps * channels, in_block)));
    int32_t longest = 0;
    for (const Piece& piece : r.pieces.pieces) longest = std::max(longest, piece.count);
    check_pieces(lengths, r.pieces, r.pieces.parts > 0 ? longest : INT32_MAX);
    ++all, cut += r.pieces.parts > 0;
  }
  std::printf("%d of %d random problems have sums that are cut\n", cut, all);
  expect(cut > 20, "some are cut");
}

// 512 channels to 512, 3x3, on 7x7.
void test_few_tiles() {
  Problem p;
  p.filter = {Operator::kConv, 512, 512, 1, {1, 3, 3}};
  p.input = p.output = {1, 7, 7}, p.pad = {0, 1, 1};
  for (const DataType type : {DataType::kFloat, DataType::kHalf, DataType::kBFloat16})
    for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
      p.N = 1;
      expect(plan_portable(p, type, layout, {80, 132, 228 << 10}).pieces.pieces.size() > 6, "one image's sums are cut");
      p.N = 1000;
      expect(plan_portable(p, type, layout, {80, 132, 228 << 10}).pieces.parts == 0, "those of a thousand are not");
    }
}

}  // namespace

int main() {
  test_lengths();
  test_random_problems();
  test_few_tiles();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}

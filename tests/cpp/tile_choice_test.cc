// The choices of ops_cuda/tile_choice.h, without a GPU.
#include "ops_cuda/tile_choice.h"

#include <algorithm>
#include <cstdio>

using namespace cks;
using namespace cks::cuda;

namespace {

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  ++failed;
}

const TileShape& chosen(int64_t pixels, int64_t channels, int64_t groups, int multiprocessors, int shared_kb) {
  return kTileShapes[choose_tile({pixels, channels, groups, 256, {80, multiprocessors, shared_kb << 10}})];
}

void test_tiles() {
  const TileShape large = chosen(98304, 256, 1, 132, 228);
  expect(large.m == 128 && large.n == 128 && large.row_bytes == 128, "a large output takes the largest tile");
  const TileShape small = chosen(49, 512, 1, 132, 228);
  expect(small.m == 64 && small.n == 32, "a small output is cut fine, to fill the device");
  const TileShape narrow = chosen(100000, 8, 1, 132, 228);
  expect(narrow.n == 32, "few channels take the narrowest tile");
  for (const int64_t pixels : {1, 100, 10000, 1000000})
    for (const int shared_kb : {64, 100, 164, 228})
      for (const int64_t channels : {1, 40, 64, 100, 512})
        expect(chosen(pixels, channels, 3, 40, shared_kb).pipeline_bytes() < shared_kb << 10,
               "a tile fits shared memory");
}

// Parts that the longest of these sums is cut into, on tiles of 64x64 for each of `copies`.
int64_t parts_of(std::initializer_list<int32_t> lengths, int64_t copies, int multiprocessors) {
  const int32_t longest = longest_piece(lengths, copies, kTileShapes[3], {80, multiprocessors, 228 << 10});
  return ceil_div(std::ranges::max(lengths), longest);
}

void test_parts() {
  expect(parts_of({72}, 4000, 132) == 1, "sums of many tiles stay whole");
  expect(parts_of({72}, 8, 132) > 4, "those of few tiles are cut, to fill the device");
  expect(parts_of({72}, 8, 132) > parts_of({72}, 8, 20), "by more on a larger one");
  expect(parts_of({72}, 8, 1) == 1, "and not where they fill it");
  expect(parts_of({8}, 8, 132) == 1, "short sums stay whole");
  expect(parts_of({288, 8, 8, 8, 8, 8, 8, 8}, 8, 132) > 4, "a long one among short ones is cut");
  const TileShape& cut = kTileShapes[choose_tile({49, 512, 1, 512 * 9 * 2, {80, 132, 228 << 10}})];
  expect(cut.n > 32, "tiles need not be the smallest where their sums are cut");
}

void test_wide_box() {
  Problem p;
  p.N = 5;
  for (const int64_t width : {1, 7, 56, 1000})
    for (const int64_t height : {1, 9, 64})
      for (const int rows : {32, 64, 128, 256}) {
        p.output = p.input = {1, height, width};
        const Box box = wide_box(p, rows);
        expect(box.pixels() >= 1 && box.pixels() <= rows, "a wide box holds at most its rows");
        expect(box.n <= p.N && box.extent[1] <= height && box.extent[2] <= width, "and no more than the output");
        expect(box.extent[2] <= 32, "and stays compact");
      }
  p.filter.op = Operator::kConvTranspose;
  p.stride = {1, 2, 2};
  p.output = {1, 14, 14};
  expect(wide_box(p, 256).extent == Index3({1, 7, 7}), "of a transposed convolution it covers one phase");
}

}  // namespace

int main() {
  test_tiles();
  test_parts();
  test_wide_box();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}

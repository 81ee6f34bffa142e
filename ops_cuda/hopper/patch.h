// How the taps of a tile can share boxes of the input, patches: the tile's pixels and what its taps reach around them.
// A patch is copied once for each block of channels, where a box for each tap would read most pixels again for every
// tap. Taps share one whose offsets differ by multiples of the stride: it is made of every stride-th pixel. Pure host
// code.
//
// The matrix instruction reads a tile's rows in groups of eight that follow each other at equal distances, eight groups
// at a time. So eight rows must be neighbours in the patch, and which rows a tap reads is only a matter of where it
// begins: the swizzle of shared memory depends on addresses, not on where a box begins.
#pragma once
#include <array>
#include <optional>

#include "plan/plan.h"

namespace cks::cuda::hopper {

struct Patch {
  Box box;                            // of input pixels, a stride apart
  int32_t group_pitch;                // pixels of the patch from one group of eight rows to the next
  std::array<int32_t, 4> row_blocks;  // the pixel of the patch where each block of 64 rows begins
};

// Bytes from one patch in shared memory to the next; a pixel has 128.
inline int patch_pitch(const Patch& p) { return int(round_up(p.box.pixels() * 128, 1024)); }

// A tap of a plan with patches; those of one patch follow each other. In place of its offset it has
//   [0]  how many taps read the patch, where it is the first of them; else 0
//   [1]  of the first, where the patch begins, relative to the tile's first input pixel: d, h and w, kCornerBits each
//   [2]  the pixel of the patch that the tile's first row reads; above kPixelBits the same as [0]
inline constexpr int kCornerBits = 10, kPixelBits = 16;

struct PatchPlan {
  Plan plan;
  Patch patch;  // all have one size
};

// How many patches a tile's taps read, for each block of channels.
int patches_of(const Plan&, const Tile&);

// With the box of exactly `rows` pixels that multiplies and loads least, counting `tile_overhead` taps for each tile
// beside its own. None where no box of a patch does: taps that are too far apart, or no two that share a patch.
std::optional<PatchPlan> plan_patches(const Problem&, int rows, double tile_overhead);

}  // namespace cks::cuda::hopper

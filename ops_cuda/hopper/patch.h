// How all taps of a tile can share one box of the input, the patch: the tile's pixels and what its taps reach around
// them. It is copied once for each block of channels, where a box for each tap would read most pixels again for every
// tap. Pure host code.
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
  Box box;                            // of input pixels
  int32_t group_pitch;                // pixels of the patch from one group of eight rows to the next
  std::array<int32_t, 4> row_blocks;  // the pixel of the patch where each block of 64 rows begins
};

// Bytes from one patch in shared memory to the next; a pixel has 128.
inline int patch_pitch(const Patch& p) { return int(round_up(p.box.pixels() * 128, 1024)); }

struct PatchPlan {
  Plan plan;  // its taps' offsets are {0, 0, pixels of the patch}, from the patch's corner
  Patch patch;
  std::vector<Index3> corner;  // of each tile: where its patch begins, relative to its first input pixel
};

// With the box of exactly `rows` pixels that multiplies and loads least, counting `tile_overhead` taps for each tile
// beside its own. None where no box of a patch does: input pixels that a stride lies between, or taps that are too far
// apart.
std::optional<PatchPlan> plan_patches(const Problem&, int rows, double tile_overhead);

}  // namespace cks::cuda::hopper

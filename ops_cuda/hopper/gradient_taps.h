// Which taps read one box of X with a margin, and which team of a block has which of them.
#pragma once
#include "ops_cuda/hopper/gradient_boxes.h"

namespace cks::cuda::hopper::gradient {

// Taps that read one box of X: congruent modulo the stride, and no farther apart than the margin.
struct Part {
  Axes base, last;  // the least and the greatest offset
};

// The squares of one team: one 64 output channels, up to `slots` operands in X.
struct Group {
  std::vector<int> taps;  // of Covering::taps; with several input channels in the tile, one
  bool joined;            // as many operands as fit, equally far apart
};

struct TapSet {
  std::vector<Group> groups;
  std::vector<int> taps;   // of all groups
  std::vector<int> parts;  // of Covering::parts
};

// Taps sorted by the box of X they read.
struct Covering {
  std::vector<FrameTap> taps;
  std::vector<int> part_of;  // each tap's
  std::vector<Part> parts;
  Axes x_box;
};

// `margins`: along which axes the taps of a part may differ. `exact`: no k-step is multiplied for a tap that it is dead
// for.
Covering cover(const Frame&, const Axes& box, const std::array<bool, 4>& margins, bool exact);

// A tap's place in its box of X, in pixels.
int32_t pixel_offset(const Frame&, const Covering&, int tap);

// Groups of taps equally far apart, as many as `slots` each: rows of taps, then columns, then what is left.
std::vector<Group> make_groups(const Frame&, const Covering&, int slots, bool joined);

// The groups of a tile, `apart` those of a tile one square wide, dealt to tap sets.
std::vector<TapSet> make_tap_sets(const Covering&, const std::vector<Group>& apart, int slots, int tile_k, int tile_c);

}  // namespace cks::cuda::hopper::gradient

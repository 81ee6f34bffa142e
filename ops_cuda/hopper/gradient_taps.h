// Which taps read one box of X with a margin, and which team of a block has which of them.
#pragma once
#include <algorithm>
#include <span>

#include "ops_cuda/hopper/gradient_boxes.h"

namespace cks::cuda::hopper::gradient {

// Taps that read one box of X: congruent modulo its step, and no farther apart than the margin.
struct Part {
  Axes base, last;  // the least and the greatest offset
};

// The squares of one team: one 64 output channels, up to `slots` operands in X.
struct Group {
  // Of Covering::taps, or kMissing; with several input channels in the tile, one. Of narrow squares: runs, one after
  // the other.
  std::vector<int> taps;
  bool joined;  // as many operands as fit, equally far apart
};
inline constexpr int kMissing = -1;

// Calls body(taps) for those of a team's taps that do the same k-steps: each run of joined ones, else each by itself.
template <class F>
void for_runs(const GradientShape& shape, const Group& team, F body) {
  const std::span<const int> taps = team.taps;
  const size_t most = team.joined ? size_t(shape.join) : 1;
  for (size_t first = 0; first < taps.size(); first += most)
    body(taps.subspan(first, std::min(most, taps.size() - first)));
}

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
  Axes x_box, x_step;  // its pixels lie so far apart
};

// `margins`: along which axes the taps of a part may differ. `exact`: along which no k-step is multiplied for a tap
// that it is dead for.
Covering cover(const Frame&, const Axes& box, const std::array<bool, 4>& margins, const std::array<bool, 4>& exact);

// How far apart in a box of X the pixels are that neighbours in dY's box read.
Axes step_pitches(const Frame&, const Covering&);

// A tap's place in its box of X, in pixels.
int32_t pixel_offset(const Covering&, int tap);

// Groups of taps equally far apart, as many as `slots` each: rows of taps, then columns, then what is left.
std::vector<Group> make_groups(const Covering&, int slots, bool joined);
// The same for runs of narrow squares, dealt evenly to all teams of one block; none where it has no room for them.
std::vector<Group> make_narrow_groups(const Covering&, const GradientShape&);
// Whether joined taps differ along w alone.
bool are_rows(const Frame&, const Covering&, const GradientShape&, const std::vector<Group>&);

// The groups of a tile, `apart` those of a tile one square wide, dealt to tap sets.
std::vector<TapSet> make_tap_sets(const Covering&, const std::vector<Group>& apart, int slots, int tile_k, int tile_c);

}  // namespace cks::cuda::hopper::gradient

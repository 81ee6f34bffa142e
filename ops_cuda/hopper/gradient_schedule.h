// From a problem to what each block of the Hopper weight gradient does. Pure host code: nothing here touches a device.
//
// dW[k][c][tap] is a product of dY and X summed over pixels. A block keeps up to teams * slots squares of dW, each 64
// output channels by 64 input channels of one tap, and walks over boxes of output pixels: for each it has dY's box, and
// X's boxes with a margin that all its taps share, so that a tap is only an offset into shared memory. A box is a
// sequence of k-steps, 16 pixels each; those that no live pixel of a tap needs are masked out, box by box.
#pragma once
#include "plan/plan.h"

namespace cks::cuda::hopper {

inline constexpr int kSquare = 64;        // channels, both ways
inline constexpr int kGradientTeams = 3;  // math warpgroups of a block
inline constexpr int kMaxSteps = 32;      // k-steps of a box: bits of a mask
inline constexpr int kStepPixels = 16;    // what one wgmma sums up
inline constexpr int kMaxGradientStages = 8;
inline constexpr int kMaxGradientTaps = 384;  // of a filter

// How operands are multiplied: as they are, or as two halves each (three products), for strict fp32.
struct GradientOperands {
  int planes;  // 1 or 2
  // Squares of a team. Sums of two planes are promoted, which takes twice the registers.
  int slots() const { return planes == 1 ? 3 : 2; }
  int squares() const { return kGradientTeams * slots(); }
  int products() const { return planes == 1 ? 1 : 3; }
};

// Pixels in the order they have in shared memory, the fastest axis first: images, then w, h, d where images are inner
// (every k-step is one place in 16 images, so that each tap's dead pixels are left out exactly), or w, h, d, images.
using Axes = std::array<int32_t, 4>;
struct BoxLayout {
  bool images_inner;
  Axes box;  // of output pixels; a multiple of 8 along the fastest axis, and of 2 along the next one where it is 8
};

struct GradientPlace {  // of a box, beside its images
  int32_t d, h, w, padding;
};
struct GradientSlot {
  int32_t a, b;     // where its operands begin in a stage, in 16 bytes; b may be negative, with no k-step that reaches
                    // before the stage
  int32_t k, c;     // its square in the block's tile; k < 0: none
  int32_t partial;  // where the tap's partial squares begin, counted in squares
  int32_t apart;  // of a team's first slot: all its squares share dY's operand, and X's lie so far apart (in 16 bytes),
                  // so that one wgmma does them; 0: it does not
  int32_t tap;    // of the filter
  int32_t order;  // of the tap among its set's; in a set of all taps the filter's order
};
static_assert(sizeof(GradientSlot) == 32);
// What a block does: `boxes` boxes of a tap set, starting with place `place` of its list and image `image`.
struct GradientItem {
  int32_t tap_set, k, c;            // the first channels, in squares
  int32_t first_place, num_places;  // the tap set's list
  int32_t place, image, boxes;
  int32_t split;  // which part of the sum over pixels
  int32_t taps;   // of the set
  int32_t padding[2];
};
static_assert(sizeof(GradientItem) == 48);
// Where the partial squares of a filter tap are: [splits][k][c], from `first` on. splits 0: the tap is dead.
struct GradientSums {
  int32_t first, splits;
};

struct GradientSchedule {
  BoxLayout layout;
  Axes x_box;
  int tile_k = 1, tile_c = 1;  // squares of a block's tile
  int max_parts = 1;           // boxes of X (a tap set has one for every class of taps that shares a margin)
  int stages = 0, stage_bytes = 0;
  std::vector<int32_t> step_a, step_b;  // where a k-step begins in the boxes of dY and X, in 16 bytes
  int32_t group_a = 0, group_b = 0;     // from its first 8 pixels to the others, in bytes
  std::vector<GradientItem> items;      // longest first
  std::vector<GradientPlace> places;    // of all tap sets
  std::vector<uint32_t> masks;          // [place][square]
  std::vector<GradientSlot> slots;      // [tap set][square]
  std::vector<GradientPlace> parts;  // [tap set][max_parts]: where X's boxes begin, relative to the outputs' * stride
  std::vector<int32_t> num_parts;    // [tap set]
  std::vector<GradientSums> sums;    // [filter tap]
  int64_t partial_squares = 0;
  bool direct = false;  // no sum is split: blocks write dW themselves
  double cycles = 0;    // what the model expects

  int a_bytes() const;  // of a box of dY, 64 channels
  int b_bytes() const;
  size_t shared_bytes(size_t element_bytes) const;  // of dW
};

struct GradientMachine {
  int multiprocessors = 132;
  int shared_bytes = 227 * 1024;
};

// Whether the kernel can take the problem, apart from how the tensors lie in memory.
bool can_implement_gradient(const Problem&);

GradientSchedule choose_gradient_schedule(const Problem&, const GradientOperands&, const GradientMachine&);

// Every layout of boxes that fits, for tests: each gives a schedule.
std::vector<BoxLayout> gradient_layouts(const Problem&);
// The best schedule of one layout; no stages where none fits.
GradientSchedule make_gradient_schedule(const Problem&, const GradientOperands&, const GradientMachine&,
                                        const BoxLayout&);

}  // namespace cks::cuda::hopper

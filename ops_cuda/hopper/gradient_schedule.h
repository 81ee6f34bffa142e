// From a problem to what each block of the Hopper weight gradient does. Pure host code: nothing here touches a device.
//
// dW[k][c][tap] is a product of dY and X summed over pixels. A block keeps up to teams * slots squares of dW, each 64
// output channels by 64 (or 32, or 16) input channels of one tap, and walks over boxes of output pixels: for each it
// has dY's box, and X's boxes with a margin that all its taps share, so that a tap is only an offset into shared
// memory. Taps equally far apart are a run, which one wgmma can do. A box is a sequence of k-steps, 16 pixels each;
// those that no live pixel of a tap needs are masked out, box by box.
#pragma once
#include "plan/plan.h"

namespace cks::cuda::hopper {

inline constexpr int kSquare = 64;        // channels, both ways
inline constexpr int kGradientTeams = 3;  // math warpgroups of a block
inline constexpr int kMaxSteps = 32;      // k-steps of a box: bits of a mask
inline constexpr int kStepPixels = 16;    // what one wgmma sums up
inline constexpr int kMaxGradientStages = 8;
inline constexpr int kMostGradientParts = 32;     // a lane of the warp that copies has one
inline constexpr int kMaxGradientTaps = 384;      // of a filter
inline constexpr int kStageAlignment = 1024;      // what the 128-byte swizzle wants
inline constexpr int kGradientFixedBytes = 2048;  // beside the stages: barriers, and what aligning the stages costs
inline constexpr int kFewPixels = 2048;           // of both tensors: one pass before makes halves of floats, else two
inline constexpr int kMaxFloatStages = 3;
inline constexpr int kGradientScaleBytes = 1040;  // of blocks that convert floats
inline constexpr int kMaxGradientCluster = 8;     // blocks
inline constexpr int kMaxClusterTaps = kMaxGradientCluster * kGradientTeams * 3;

// How operands are multiplied: as they are, or as two halves each (three products), for strict fp32.
struct GradientOperands {
  int planes;           // 1 or 2
  bool floats = false;  // blocks convert the boxes of floats that they copy; else both tensors are halves
  // Squares of a team that are 64 channels wide. Sums of two planes are promoted, which takes twice the registers.
  constexpr int slots() const { return planes == 1 ? 3 : 2; }
  int products() const { return planes == 1 ? 1 : 3; }
};

// The squares of a team: `runs` of `join` taps each. Runs of one do the k-steps that their tap needs. Longer ones of
// squares 64 channels wide are as many as the team has room for, or the team has runs of one. Longer runs of narrower
// squares may have taps missing at the end, and a team does all k-steps that any of its taps needs; a block has them
// all: it makes whole rows of dW, that no other block has a part of.
struct GradientShape {
  int width, join, runs;
  int slots() const { return join * runs; }
  int squares() const { return kGradientTeams * slots(); }
  bool narrow() const { return width < kSquare; }
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
  int32_t apart;  // of a run's first slot: all its squares share dY's operand, and X's lie so far apart (in 16 bytes),
                  // so that one wgmma does them; 0: it does not, or all but the first are missing
  int32_t order;  // of the tap among its set's
  int32_t padding;
};
static_assert(sizeof(GradientSlot) == 32);
// What a block does: `boxes` boxes of a tap set, starting with place `place` of its list and image `image`.
struct alignas(16) GradientItem {
  int32_t tap_set, k, c;            // the first channels, in squares
  int32_t first_place, num_places;  // the tap set's list
  int32_t place, image, boxes;
  int32_t split;  // which part of the sum over pixels
  int32_t padding[3];
};
static_assert(sizeof(GradientItem) == 48);
// Where the partial squares of a filter tap are: [splits][k][c], from `first` on. splits 0: the tap is dead.
struct GradientSums {
  int32_t first, splits;
};

struct GradientSchedule {
  BoxLayout layout;
  Axes x_box, x_step;          // of X's boxes: their extent, and how far apart in X their pixels are
  int tile_k = 1, tile_c = 1;  // squares of a block's tile
  GradientShape shape{kSquare, 1, 1};
  int max_parts = 1;  // boxes of X (a tap set has one for every class of taps that shares a margin)
  int stages = 0, stage_bytes = 0;
  int beyond_bytes = 0;                         // behind the last stage, which runs with missing taps read
  int float_stages = 0, float_stage_bytes = 0;  // of boxes of floats, if blocks convert those
  std::vector<int32_t> step_a, step_b;          // where a k-step begins in the boxes of dY and X, in 16 bytes
  int32_t group_a = 0, group_b = 0;             // from its first 8 pixels to the others, in bytes
  // Longest first; of a direct schedule: all tap sets of a square, and of a tap set all parts, one after the other.
  std::vector<GradientItem> items;
  std::vector<GradientPlace> places;  // of all tap sets
  std::vector<uint32_t> masks;        // [place][square]
  std::vector<GradientSlot> slots;    // [tap set][square]
  std::vector<GradientPlace> parts;   // [tap set][max_parts]: where X's boxes begin, relative to the outputs' * stride
  std::vector<int32_t> num_parts;     // [tap set]
  std::vector<std::vector<int>> set_taps;  // [tap set]: of the filter, in the slots' order; in a set of all: sorted
  std::vector<GradientSums> sums;          // [filter tap]
  int64_t partial_squares = 0;
  // Blocks write dW themselves: all that have a part of a square of dW, of whatever tap, are one cluster.
  bool direct = false;
  int cluster_splits = 1;  // parts of every sum in a cluster
  double cycles = 0;       // what the model expects

  int a_bytes() const;  // of a box of dY, 64 channels
  int b_bytes() const;
  int float_a_bytes() const;  // of boxes of floats
  int float_b_bytes() const;
  int floats_at() const;  // behind the operands' stages; then the scales
  int shared_bytes() const;
  int cluster() const { return direct ? int(num_parts.size()) * cluster_splits : 1; }  // blocks
};

// How blocks write dW themselves, in shared memory: each block's sums, [output channel][channel][tap of its set], then
// a row buffer for each warp, then two tables (gradient_rows.cuh).
struct GradientRowSpace {
  int staged_bytes;  // of a sum
  int rows_at, row_bytes, tables_at, bytes;
  int rows_at_once;  // that a warp's buffer has room for,
  int row_channels;  // each of so many channels; 0: the shared memory does not suffice
};
GradientRowSpace gradient_row_space(int width, int most_taps_of_set, int live_taps, int taps, int cluster_splits,
                                    int element_bytes, int shared_bytes);

struct GradientMachine {
  int multiprocessors = 132;
  int shared_bytes = 227 * 1024;
  // How many clusters of so many blocks run at once, a block a multiprocessor.
  std::array<int, kMaxGradientCluster + 1> clusters{0, 132, 66, 39, 30, 24, 18, 15, 15};
};

// Whether the kernel can take the problem, apart from how the tensors lie in memory.
bool can_implement_gradient(const Problem&);

GradientSchedule choose_gradient_schedule(const Problem&, const GradientOperands&, const GradientMachine&);
// Of floats, for so many planes: blocks convert them, or passes before do, whichever is expected to be faster.
GradientSchedule choose_gradient_of_floats(const Problem&, int planes, const GradientMachine&);

// All those that take at most `within` times what the best one does by the model, the best one first: for measurements.
// Of floats, both kinds.
std::vector<GradientSchedule> likely_gradient_schedules(const Problem&, const GradientOperands&, const GradientMachine&,
                                                        double within);

// Every layout of boxes that fits, for tests: each gives a schedule.
std::vector<BoxLayout> gradient_layouts(const Problem&);
// The best schedule of one layout; no stages where none fits.
GradientSchedule make_gradient_schedule(const Problem&, const GradientOperands&, const GradientMachine&,
                                        const BoxLayout&);

}  // namespace cks::cuda::hopper

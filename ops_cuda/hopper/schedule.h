// From a plan to what each block of the Hopper kernel does: the tile shape, the box, and a list of work items for every
// cluster. Pure host code: nothing here touches a device.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "ops_cuda/hopper/patch.h"
#include "ops_cuda/hopper/runs.h"
#include "plan/plan.h"

namespace cks::cuda::hopper {

// How the math warpgroups of a block divide the work.
//   kSolo       one warpgroup; small tiles, deep pipelines, for few or short tiles
//   kShared     two warpgroups, each half of the rows of one tile
//   kAlternate  two warpgroups on tiles of their own in turn: one stores its tile while the other multiplies
enum class Team { kSolo, kShared, kAlternate };

// What the epilogue can apply. The curved activations inlined for every accumulator make a kernel larger than the
// instruction cache, so that only a few shapes are compiled with them.
enum class Curve { kPiecewiseLinear, kAny };
Curve curve_of(ActivationKind);

// Where the pixels that a k-block multiplies come from.
//   kBoxes    each tap's are a box of their own, or a run of pixels (runs.h)
//   kPatches  taps of a block of channels share patches (patch.h)
enum class Source { kBoxes, kPatches };

inline constexpr int kBlockBytes = 128;  // of the channels of X: a k-block
inline constexpr int kHalvedBlock = 32;  // channels whose order the halves of floats have of their own (halves.cuh)

// Elements of the filter, 16 bits each, for a k-block of an output channel. Floats are multiplied as halves, which take
// half the bytes, or all where each has a low half too (halves.cuh).
constexpr int filter_row(int element_bytes, int products) {
  return element_bytes == 4 && products == 1 ? kBlockBytes / 4 : kBlockBytes / 2;
}

struct TileShape {
  Team team;
  int row_blocks;  // of 64 rows, a warpgroup
  int bn;          // output channels
  Curve curve = Curve::kPiecewiseLinear;
  Source source = Source::kBoxes;
  constexpr int bm() const { return 64 * row_blocks * (team == Team::kShared ? 2 : 1); }
  constexpr int math_warpgroups() const { return team == Team::kSolo ? 1 : 2; }
  constexpr int teams() const { return team == Team::kAlternate ? 2 : 1; }
  // Patches beside a wide filter. Floats of theirs are made halves of before the kernel, not in it.
  constexpr bool wide_patches() const { return source == Source::kPatches && bn > 64; }
  // Whether a warpgroup of its own makes halves of a patch's floats.
  constexpr bool converts(int element_bytes) const { return source == Source::kPatches && element_bytes == 4; }
  // Beside those that multiply and convert: one solo warp copies and one stores; otherwise a warpgroup does both.
  constexpr int threads(int element_bytes) const {
    return math_warpgroups() * 128 + (team == Team::kSolo ? 64 : 128) + (converts(element_bytes) ? 128 : 0);
  }
  // Where products are split, a thread keeps two sets of accumulators; those that convert leave the others 128
  // registers.
  constexpr bool serves(int element_bytes, int products) const {
    if (source == Source::kPatches && products > 1) return false;
    if (converts(element_bytes) && (row_blocks > 2 || wide_patches())) return false;
    return row_blocks * bn <= (products > 1 ? 128 : 256);
  }
  // Whether a tap's last k-block is multiplied by half where X has no channels in its other half. Tiles of boxes ask
  // for each k-block, which is too much for narrow ones, those of patches for each patch, which at 64 columns still
  // costs all layers 2 % (measured).
  constexpr bool asks_for_half(int element_bytes) const {
    return element_bytes == 2 && (source == Source::kPatches ? bn != 64 : bn > 64);
  }
  // Whether two blocks may copy pixels for each other: for tiles that multiply for as long as their boxes take to come.
  // Smaller ones gained nothing by it (measured). With it the widest tiles of floats spill registers.
  constexpr bool can_pair(int element_bytes) const {
    return team == Team::kShared && source == Source::kBoxes && element_bytes == 2;
  }
  // Whether floats may be made halves of before the kernel (halve.h).
  constexpr bool serves_halved() const { return source == Source::kBoxes || wide_patches(); }
  constexpr int max_blocks_per_sm(int products) const {
    return team == Team::kSolo && bn * (products > 1 ? 2 : 1) <= 128 ? 2 : 1;
  }
  // Whether blocks may have parts of its sum. Smaller tiles gained nothing by it, and neither did the widest
  // (measured).
  constexpr bool can_be_cut() const {
    return team == Team::kShared && source == Source::kBoxes && row_blocks * bn <= 128;
  }
  // Whether the blocks of a cluster can divide its sum: then each warp of a block has 16 of its rows.
  constexpr bool can_be_split() const {
    return team != Team::kAlternate && row_blocks == 1 && bn <= 128 && source == Source::kBoxes;
  }

  // A finished tile is stored by slabs of channels: as many as a row of 128 bytes holds, or of 64 where those do not
  // make up the tile.
  constexpr int slab(int element_bytes) const {
    if (bn * element_bytes < kBlockBytes) return bn;
    return (bn * element_bytes % kBlockBytes == 0 ? kBlockBytes : kBlockBytes / 2) / element_bytes;
  }
  // A team's slabs that wait in shared memory at once: 64 KB of them in a block, but half of a tile's where patches
  // and their wide filter leave no room for more.
  constexpr int staged_slabs(int element_bytes) const {
    const int most = (64 << 10) / (teams() * bm() * slab(element_bytes) * element_bytes);
    const int slabs = bn / slab(element_bytes) / (wide_patches() ? 2 : 1);
    return most < slabs ? most : slabs;
  }
  constexpr int staged_bytes(int element_bytes) const {
    return teams() * staged_slabs(element_bytes) * bm() * slab(element_bytes) * element_bytes;
  }
};

// Every shape that is compiled. Wide tiles for long sums (few bytes a multiply-add), alternating ones where the store
// would show, small ones where tiles are few. 96 columns for what leaves much of 128 empty (96, 160 and 192 output
// channels). Patches where loading a box of pixels for every tap bounds a tile: the fewer the output channels the more,
// and least for shared tiles of 256 rows or columns, which multiply for as long as their boxes take to come.
inline constexpr TileShape kTileShapes[] = {
    {Team::kShared, 1, 256},
    {Team::kShared, 2, 128},
    {Team::kShared, 1, 128},
    {Team::kShared, 2, 64},
    {Team::kAlternate, 2, 128},
    {Team::kAlternate, 2, 96},
    {Team::kAlternate, 1, 128},
    {Team::kAlternate, 2, 64},
    {Team::kSolo, 1, 128},
    {Team::kSolo, 1, 64},
    {Team::kSolo, 1, 32},
    {Team::kShared, 1, 128, Curve::kAny},
    {Team::kSolo, 1, 64, Curve::kAny},
    {Team::kAlternate, 2, 128, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kAlternate, 2, 96, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kShared, 2, 64, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kShared, 2, 32, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kAlternate, 4, 64, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kAlternate, 2, 64, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kAlternate, 4, 32, Curve::kPiecewiseLinear, Source::kPatches},
    {Team::kAlternate, 2, 32, Curve::kPiecewiseLinear, Source::kPatches},
};

// One output tile, or a block's share of its sum. A k-block is 128 bytes of channels of one tap; a tile's sum is its
// k-blocks in order: tap by tap, or, where taps share patches, one block of channels after the other. Such a tile is
// one block's. Any other may be cut into parts: blocks leave theirs in a workspace, but for the one that has the last
// part, which adds the others to it and stores the tile. It waits for them, so that it comes after them in the grid;
// and each block leaves what others wait for before it waits itself.
struct alignas(16) WorkItem {
  static constexpr int kEnd = 0, kPart = -1;
  struct alignas(16) Sum {
    int32_t k0, lo, hi;  // first output channel; k-blocks [lo, hi) of the taps from first_tap on
    int32_t parts;       // of the tile, of which this block stores it; or kPart, which it leaves; kEnd of the list
  } sum;
  struct alignas(16) Input {
    int32_t n, d, h, w;  // pixel that a tap with offset 0 reads for the tile's first output pixel; of a run, d is the
                         // image
  } input;
  struct alignas(16) Output {
    int32_t d, h, w;  // first pixel (its n is the input's)
    int32_t first_tap;
  } output;
  struct alignas(16) Part {
    int32_t slot, counter;  // of a cut tile: where this part lies in the workspace, or the first; who counts them
    int32_t sharers;        // blocks of a cluster that have a share of it each (cluster_sum.cuh); else 1
  } part;
  // Of a tile whose taps share patches: how many taps and patches, for each block of channels.
  struct alignas(16) Patches {
    int32_t taps, count;
  } patches;
  // The tap of k-block lo, which is first_tap, lest the first copy waits for the list of taps.
  struct alignas(16) Start {
    int32_t d, h, w, filter;
  } start;
};
static_assert(sizeof(WorkItem) == 96);

inline constexpr int kMaxStages = 12;                              // of a ring of k-blocks
inline constexpr int kMaxFilterStages = 32;                        // of a filter that stays
inline constexpr int kLeastPatchStages = 2, kMostPatchStages = 4;  // of the ring of patches
inline constexpr int kFixedSharedBytes = 2048;  // beside the tiles: barriers, and what aligning the tiles costs

struct Config {
  TileShape shape;
  int splits;           // blocks of a cluster, each of which sums its share of one tile's k-blocks
  int blocks_per_sm;    // 1 or 2
  bool cut;             // tiles into parts, where that evens out the work
  bool halved = false;  // floats of X are made halves of first, in the workspace (halve.h)
  bool pairs = false;   // two blocks of a cluster take neighbouring columns of a tile and share its pixels

  int cluster() const { return pairs ? 2 : splits; }  // its blocks
};

struct Schedule {
  Config config;
  Box box;
  std::optional<Patch> patch;      // where taps share them
  std::optional<RunCorners> runs;  // where tiles are runs of pixels, in one row of all output pixels
  int stages = 0;                  // k-blocks in shared memory; of the filter alone where there is a patch
  int patch_stages = 0;            // patches in shared memory
  bool filter_stays = false;       // all of its k-blocks fit: they are loaded once
  size_t shared_bytes = 0;
  std::vector<Tap> taps;
  std::vector<WorkItem> items;  // [rounds][blocks]
  int clusters = 0;
  int blocks() const { return clusters * config.cluster(); }
  int slots = 0, counters = 0;  // of the workspace: parts of tiles, and one count for each cut tile
  double cycles = 0;            // what the model below expects
};

struct Machine {
  int multiprocessors = 132;
  // Clusters of 1, 2, 4 and 8 blocks that run at once, with one block on an SM and with two. A cluster must lie in one
  // GPC, so that they are fewer than the SMs would hold. The numbers of an H200.
  std::array<std::array<int, 4>, 2> clusters{{{132, 66, 30, 15}, {264, 132, 62, 30}}};
  int shared_bytes = 227 * 1024;  // a block may use
};

// What the schedule needs to know of the tensors beside the problem.
struct Operands {
  int element_bytes;  // of X
  int products;       // that a multiply-add takes: 3 for strict float
  int64_t channels;   // of X as it lies in memory (C, padded to 16 bytes)
  Curve curve;
  int output_bytes = element_bytes;  // of an element of Y
  bool can_be_halved = false;
};

// What the kernel of a configuration finds: other than what the problem has where X is halved.
Operands multiplied(const Operands&, const Config&);

// The schedule with the least expected time over all configurations.
Schedule choose_schedule(const Problem&, const Operands&, const Machine&);

// The `most` of them that come first, least expected time first: worth a measurement.
std::vector<Schedule> best_schedules(const Problem&, const Operands&, const Machine&, size_t most);

// The schedule of one configuration; no clusters where it does not fit.
Schedule make_schedule(const Problem&, const Operands&, const Machine&, const Config&);
std::vector<Config> all_configs(const Problem&, const Operands&);

// Names tell the configurations of a problem apart, and stay the same from one version to the next: what a measurement
// found is kept under them.
std::string name_of(const Config&);
std::optional<Config> config_named(std::string_view name, const Problem&, const Operands&);  // none has this name

}  // namespace cks::cuda::hopper

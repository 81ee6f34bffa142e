#include "ops_cuda/hopper/schedule_cost.h"

#include <algorithm>
#include <bit>

namespace cks::cuda::hopper {
namespace {

// The least that a k-block takes where a warpgroup waits for itself (by columns too), and where two fill each other's
// gaps, and what more of that a second block of rows takes. Floats are converted on the way, but for those of patches,
// which other warps convert.
struct Latency {
  double solo, solo_column, others, second_rows;
};
Latency latency_of(const Operands& o, Source source) {
  if (source == Source::kPatches) return {0, 0, 20, 0};
  if (o.element_bytes == 2) return {62, 0.27, 144, 0};
  return o.products == 1 ? Latency{363, 0, 357, 0.43} : Latency{408, 0.82, 699, 0.45};
}

}  // namespace

// Launches wait for each other; four bytes read and two written, through L2. Two launches take so long however little
// there is; and the blocks that hold an image take in what they can, the slower the more they hold.
double cycles_to_halve(const HalvedInput& x) {
  constexpr double kLaunch = 2700, kTwoLaunches = 5200;
  const int64_t elements = x.images * x.pixels * x.channels;
  const double copy = double(elements * int64_t(sizeof(float) + sizeof(uint16_t))) / 1380;
  if (x.pixel_scales) return kLaunch + copy;
  const int cluster = x.cluster();
  if (cluster == 0) return std::max(kLaunch + copy, kTwoLaunches);
  const double held = double(x.quads_of_image()) / cluster;  // 16 bytes each
  return kLaunch + std::max(copy, held * (held <= HalvedInput::kThreads * HalvedInput::kBatch ? 0.48 : 1.04));
}

Cost cost_of(const Config& c, const Operands& o, const Fetched& fetched, std::optional<int> stages, int busy_blocks,
             const Machine& m) {
  const TileShape& s = c.shape;
  const double share = c.blocks_per_sm;  // blocks of one SM slow each other down
  // Through patches shared memory is what products wait for (docs/notebook.md). It sends as many rows of A for few
  // columns as for many, so that few save little. A filter that comes again and again beside floats that are converted
  // costs most. (All fitted.)
  const bool converts = s.converts(o.element_bytes), is_wide = s.wide_patches();
  const double columns = s.source == Source::kBoxes             ? s.bn * o.products * (o.element_bytes == 4 ? 0.5 : 1)
                         : !converts                            ? std::max(s.bn, is_wide ? 104 : 48)
                         : s.team == Team::kAlternate && stages ? std::max(1.56 * s.bn, 68.0)
                                                                : std::max(0.85 * s.bn, 40.0);
  // The share of the k-blocks' steps that are multiplied.
  const double filled = s.asks_for_half(o.element_bytes) ? double(round_up(o.channels, kBlockBytes / 4)) /
                                                               double(round_up(o.channels, kBlockBytes / 2))
                                                         : 1;
  const double multiply = (is_wide ? 1.013 : 1.066) * s.bm() / 64 * 2.0 * columns * filled * share;
  // All SMs together are bound by what L2 sends and an SM takes in, one alone by what it can have in flight. Blocks
  // that share a sum read different k-blocks, so that no two of them share a line, and where tiles are cut few of them
  // do. Small tiles of halves suffer little from that; those that convert floats do (fitted). The blocks of a pair
  // take in what others do, and are only a little faster.
  const double busy = std::min(1.0, double(busy_blocks) / c.blocks_per_sm / m.multiprocessors);
  const double strangers = c.splits > 1 ? (s.team != Team::kSolo  ? 0.2 + 0.12 * std::bit_width(unsigned(c.splits) / 2)
                                           : o.element_bytes == 4 ? 1.02
                                                                  : 0.003 * s.bn * busy)
                           : c.cut      ? (c.pairs ? 0.07 : 0.18)
                                        : 0;
  const double apart = 1 + strangers * busy;
  const double loaded_bytes = (c.pairs ? 0.9 : 1) * fetched.pixel_bytes + fetched.filter_bytes;
  const double load = loaded_bytes / (118.3 - 53.5 * busy) * share * apart + (c.pairs ? 52 : 0);
  const Latency least = latency_of(o, s.source);
  const double latency = 1539.0 / (stages.value_or(kMaxStages) - 1) +
                         (s.team == Team::kSolo ? least.solo + least.solo_column * s.bn
                                                : least.others * (0.7 + 0.3 * s.row_blocks * s.bn / 128) *
                                                      (1 + least.second_rows * (s.row_blocks - 1)));
  const double store = 560 + 0.0516 * s.bm() * s.bn * o.output_bytes * share;
  // A tile that blocks share is summed up and stored by all of them, two warpgroups' more slowly.
  const double split =
      c.splits > 1 ? 1115 + 98 * c.splits + 0.037 * s.bm() * s.bn + (s.team == Team::kSolo ? 0 : 1200) : 0;
  // Those that convert patches take so long for a pixel; and each patch of a tile beyond the first is waited for.
  const double convert = converts ? 11.5 * fetched.pixel_bytes / kBlockBytes : 0;
  // Wide tiles have room for few patches, and wait a little for each.
  const double wait = is_wide ? 1.1 * fetched.pixel_bytes / kBlockBytes : 0;
  // Room for two lets the next launch's block set itself up. The first patch is read for its scale before it is
  // converted.
  const double start = (c.blocks_per_sm > 1 ? 1930 : 2480) + (converts ? 1500 : 0);
  Cost cost{.k_block = std::max({multiply, load, latency, convert}) + wait + 350 * fetched.more_patches,
            .tile = store + split,
            .leave = 1250 + 0.17 * s.bm() * s.bn,
            .add = 1230 + 0.107 * s.bm() * s.bn,
            .delay = 4600 + 0.044 * s.bm() * s.bn,
            .last_tile = 0,
            .start = start};
  // Half of the threads store a tile: that takes longer, but only the last one of a block shows in full.
  if (s.team == Team::kAlternate) cost.tile = 302 + 0.55 * store, cost.last_tile = 0.28 * store;
  return cost;
}

}  // namespace cks::cuda::hopper

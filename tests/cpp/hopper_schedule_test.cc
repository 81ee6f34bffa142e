// The Hopper kernel's schedules, on the host: over random problems and every configuration, each k-block of each output
// tile is in exactly one work item, the parts of a cut tile fit together, and what the hardware limits stays within its
// limits.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "ops_cuda/hopper/halved_input.h"
#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/hopper/tensor_limits.h"
#include "ops_cuda/kernel.h"

namespace {

using namespace cks;
using namespace cks::cuda::hopper;

int64_t schedules = 0, items = 0, cut_tiles = 0, run_items = 0, held_images = 0, uneven_shares = 0, strided_patches = 0;

void require(bool holds, const char* what, const Problem& p, const Config& c) {
  if (holds) return;
  std::printf(
      "FAIL: %s\n  N %ld C %ld K %ld, input %ld %ld %ld, output %ld %ld %ld, stride %ld; tile %d x %d, patches %d, "
      "splits %d, cut %d, halved %d, pairs %d\n",
      what, long(p.N), long(p.filter.C), long(p.filter.K), long(p.input[0]), long(p.input[1]), long(p.input[2]),
      long(p.output[0]), long(p.output[1]), long(p.output[2]), long(p.stride[2]), c.shape.bm(), c.shape.bn,
      c.shape.source == Source::kPatches, c.splits, c.cut, c.halved, c.pairs);
  std::exit(1);
}

// The live taps of one output pixel, straight from the definition in problem.h.
int64_t live_taps(const Problem& p, const Dims& o) {
  int64_t live = 1;
  for (int axis = 0; axis < 3; ++axis) {
    int64_t here = 0;
    for (int64_t t = 0; t < p.filter.extent[axis]; ++t) {
      if (p.filter.op == Operator::kConv) {
        const int64_t i = o[axis] * p.stride[axis] - p.pad[axis] + t * p.dilation[axis];
        here += i >= 0 && i < p.input[axis];
      } else {
        const int64_t i = o[axis] + p.pad[axis] - t * p.dilation[axis];
        here += i >= 0 && i % p.stride[axis] == 0 && i / p.stride[axis] < p.input[axis];
      }
    }
    live *= here;
  }
  return live;
}

// Through its patches every pixel of a tile must read what the problem says it reads through each tap, and no other
// pixel that exists.
void check_patch_item(const Problem& p, const Schedule& s, const WorkItem& w) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, s.config); };
  const Patch& patch = *s.patch;
  const bool conv = p.filter.op == Operator::kConv;
  const auto split = [](int pixel, const Box& box) {
    const int w = pixel % box.extent[2], h = pixel / box.extent[2] % box.extent[1];
    const int nd = pixel / (box.extent[2] * box.extent[1]);
    return std::array<int, 4>{nd / box.extent[0], nd % box.extent[0], h, w};
  };
  int patches = 0, left = 0;  // taps of the current patch
  int begins[3] = {};         // its first input pixel
  for (int t = 0; t < w.patches.taps; ++t, --left) {
    const Tap& tap = s.taps[w.output.first_tap + t];
    holds((left == 0) == (tap.offset[0] > 0) && tap.offset[2] >> kPixelBits == tap.offset[0],
          "a patch begins where another has not ended");
    if (left == 0) {
      left = tap.offset[0], ++patches;
      const int origin[3] = {w.input.d, w.input.h, w.input.w};
      for (int i = 0; i < 3; ++i) {
        const int bits = tap.offset[1] >> (2 - i) * kCornerBits & ((1 << kCornerBits) - 1);
        begins[i] = origin[i] + (bits >= 1 << (kCornerBits - 1) ? bits - (1 << kCornerBits) : bits);
      }
    }
    const int S = int(p.filter.extent[2]), R = int(p.filter.extent[1]);
    const std::array<int, 3> index{tap.filter / (S * R), tap.filter / S % R, tap.filter % S};
    for (int row = 0; row < s.config.shape.bm(); ++row) {
      const int pixel =
          patch.row_blocks[row / 64] + row % 64 / 8 * patch.group_pitch + row % 8 + tap.offset[2] % (1 << kPixelBits);
      holds(pixel < patch.box.pixels(), "a row reads beyond the patch");
      const auto from = split(pixel, patch.box), to = split(row, s.box);
      holds(from[0] == to[0], "a row reads another image");
      const int output[3] = {w.output.d, w.output.h, w.output.w};
      bool exists = w.input.n + to[0] < p.N, as_it_should = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t input = begins[i] + from[i + 1] * (conv ? p.stride[i] : 1),
                      o = output[i] + to[i + 1] * (conv ? 1 : p.stride[i]);
        exists &= o < p.output[i];
        const int64_t offset = index[i] * p.dilation[i] - p.pad[i];
        as_it_should &= conv ? input == o * p.stride[i] + offset : input * p.stride[i] == o - offset;
      }
      holds(!exists || as_it_should, "a row reads the wrong pixel");
    }
  }
  holds(left == 0 && patches == w.patches.count, "patches of a tile");
  strided_patches += patches > 1;
}

// A run's base pixels, as TMA goes through them in its im2col mode, must be what each of its output pixels reads
// through a tap without an offset; and the taps' offsets must fit.
void check_run_item(const Problem& p, const Schedule& s, const WorkItem& w, int channel_blocks) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, s.config); };
  const auto& [lower, upper] = *s.runs;
  int at[2] = {w.input.h, w.input.w}, image = w.input.d;
  const int64_t pixels = p.N * volume(p.output);
  for (int64_t o = w.output.w; o < std::min<int64_t>(w.output.w + s.config.shape.bm(), pixels); ++o) {
    const int64_t oh = o / p.output[2] % p.output[1], ow = o % p.output[2];
    holds(image == o / (p.output[1] * p.output[2]) && at[0] == oh * p.stride[1] - p.pad[1] &&
              at[1] == ow * p.stride[2] - p.pad[2],
          "a run leaves its output");
    at[1] += int(p.stride[2]);
    if (at[1] > p.input[2] - 1 + upper[1]) at[1] = lower[1], at[0] += int(p.stride[1]);
    if (at[0] > p.input[1] - 1 + upper[0]) at[0] = lower[0], ++image;
  }
  for (int b = w.sum.lo; b < w.sum.hi; ++b) {
    const Tap& tap = s.taps[w.output.first_tap + b / channel_blocks];
    const int S = int(p.filter.extent[2]);
    holds(tap.offset[1] == tap.filter / S * p.dilation[1] && tap.offset[2] == tap.filter % S * p.dilation[2] &&
              std::max(tap.offset[1], tap.offset[2]) <= kMaxIm2colOffset,
          "a tap of a run is not its filter's");
  }
}

// A block's share of a tile: the tap that its k-blocks are counted from, and they, [lo, hi).
struct Share {
  int first_tap, lo, hi;
};

struct Tile {
  std::map<std::array<int, 3>, Share> shares;  // by first tap, k-block, and rank in the cluster
  std::set<int> slots, counters;               // of the parts that are left, and all counters that are named
  int stores = 0, parts = 0, first_slot = 0, stored_by = 0, last_left_by = 0;  // by which cluster
  int sharers = 1;
  std::set<int> blocks;
};

// Where blocks of a cluster share tiles: those of a tile lie in one, side by side, and the longest share cannot be
// halved.
void check_shares(const Problem& p, const Machine& m, const Config& c,
                  const std::map<std::array<int, 5>, Tile>& tiles) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, c); };
  struct Blocks {
    int all = 0, most = 0;  // of all tiles, and of one
  };
  std::map<double, Blocks> blocks_of;  // those that have so many k-blocks, before rounding
  int blocks = 0;
  std::set<int> kinds;
  for (const auto& [at, t] : tiles) {
    holds(std::has_single_bit(unsigned(t.sharers)) && t.sharers <= c.splits, "how many blocks share a tile");
    holds(int(t.blocks.size()) == t.sharers && *t.blocks.begin() % t.sharers == 0 &&
              *t.blocks.rbegin() == *t.blocks.begin() + t.sharers - 1,
          "blocks that share a tile are apart");
    int length = 0;
    for (const auto& [where, share] : t.shares) length += share.hi - share.lo;
    Blocks& alike = blocks_of[double(length) / t.sharers];
    alike.all += t.sharers, alike.most = std::max(alike.most, t.sharers), blocks += t.sharers;
    kinds.insert(t.sharers);
  }
  holds(*kinds.rbegin() == c.splits, "a cluster of which no tile needs all");
  const int room = m.clusters[c.blocks_per_sm - 1][std::countr_zero(unsigned(c.splits))] * c.splits;
  holds(blocks <= room, "more clusters than run at once");
  const Blocks& longest = blocks_of.rbegin()->second;
  holds(longest.most == c.splits || blocks + longest.all > room, "more blocks could share the longest tiles");
  uneven_shares += kinds.size() > 1;
}

void check(const Problem& p, const Operands& given, const Machine& m, const Schedule& s) {
  const Config& c = s.config;
  const Operands o = multiplied(given, c);
  const auto holds = [&](bool x, const char* what) { require(x, what, p, c); };
  const int step = p.filter.op == Operator::kConv ? 1 : 0;
  holds(s.filter_stays
            ? s.stages <= kMaxFilterStages && s.stages == p.filter.taps() * ((o.channels * o.element_bytes + 127) / 128)
            : s.stages >= 3 && s.stages <= kMaxStages,
        "stages");
  holds((c.shape.source == Source::kPatches) == s.patch.has_value(), "a patch");
  if (s.patch) {
    for (int i = 0; i < 3; ++i)
      holds(s.patch->box.extent[i] * (p.filter.op == Operator::kConv ? p.stride[i] : 1) <= kMaxTensorBox,
            "the patch spans more than a tensor map can");
    holds(s.patch_stages >= kLeastPatchStages && s.patch_stages <= kMostPatchStages, "patches in shared memory");
  }
  holds(s.shared_bytes <= size_t(m.shared_bytes) / c.blocks_per_sm, "shared memory");
  holds(s.box.pixels() <= c.shape.bm(), "the box has more pixels than the tile has rows");
  holds(s.box.n <= 256, "box");
  for (int i = 0; i < 3; ++i)
    holds(s.box.extent[i] * (s.runs ? 1 : p.stride[i]) <= 256, "the box spans more than a tensor map can");
  holds(s.blocks() <= m.multiprocessors * c.blocks_per_sm, "more blocks than fit the GPU");
  const int64_t ring_bytes =
      s.stages * int64_t(c.shape.bm() * kBlockBytes + c.shape.bn * filter_row(o.element_bytes, o.products) * 2);
  holds(
      c.splits == 1 || (int(s.items.size()) == 2 * s.blocks() && ring_bytes >= int64_t(c.shape.bm()) * c.shape.bn * 4),
      "a cluster has one tile, and room for its sums where the ring was");
  holds(int(s.items.size()) % s.blocks() == 0, "rounds");
  const int channel_blocks = int((o.channels * o.element_bytes + 127) / 128);

  std::map<std::array<int, 5>, Tile> tiles;  // (n, first output pixel, k0)
  std::set<int> slots;
  for (int block = 0; block < s.blocks(); ++block) {
    bool ended = false, has_waited = false;
    for (size_t i = block; i < s.items.size() && !ended; i += s.blocks()) {
      const WorkItem& w = s.items[i];
      ended = w.sum.parts == WorkItem::kEnd;
      if (ended) continue;
      ++items;
      if (c.pairs && block % 2 == 0) {
        const WorkItem& other = s.items[i + 1];
        holds(other.sum.k0 == w.sum.k0 + c.shape.bn && other.sum.lo == w.sum.lo && other.sum.hi == w.sum.hi &&
                  std::memcmp(&other.input, &w.input, sizeof(w.input)) == 0 &&
                  std::memcmp(&other.output, &w.output, sizeof(w.output)) == 0,
              "a pair reads different pixels");
      }
      Tile& t = tiles[{w.input.n, w.output.d, w.output.h, w.output.w, w.sum.k0}];
      holds(w.sum.lo <= w.sum.hi, "an empty range");
      holds(w.sum.k0 % c.shape.bn == 0 && w.sum.k0 < p.filter.K, "k0");
      const Share share{w.output.first_tap, w.sum.lo, w.sum.hi};
      holds(t.shares.insert({{share.first_tap, share.lo, block % c.splits}, share}).second, "a share is there twice");
      t.sharers = w.part.sharers, t.blocks.insert(block);
      const bool leaves = w.sum.parts == WorkItem::kPart, waits = w.sum.parts > 1;
      if (leaves) {
        holds(!has_waited, "a block leaves a part late");
        holds(w.part.slot < s.slots && slots.insert(w.part.slot).second, "parts share a slot");
        t.slots.insert(w.part.slot), t.last_left_by = std::max(t.last_left_by, block / c.cluster());
      } else {
        holds(w.sum.parts > 0 && (waits || !has_waited), "a block waits before its last tiles");
        ++t.stores, t.parts = w.sum.parts, t.stored_by = block / c.cluster(), t.first_slot = w.part.slot;
        has_waited |= waits;
      }
      if (leaves || waits) t.counters.insert(w.part.counter), holds(w.part.counter < s.counters, "counter");
      const auto tap_of = [&](int b) {
        return w.output.first_tap + (s.patch ? b % w.patches.taps : b / channel_blocks);
      };
      for (int b = w.sum.lo; b < w.sum.hi; ++b) holds(tap_of(b) < int(s.taps.size()), "a tap beyond the list");
      if (w.sum.lo < w.sum.hi) {
        const Tap& first = s.taps[tap_of(w.sum.lo)];
        holds(first.offset == Index3{w.start.d, w.start.h, w.start.w} && first.filter == w.start.filter,
              "a share starts elsewhere");
        holds(s.patch || w.sum.lo < channel_blocks, "a share is counted from another tap than its first");
      }
      if (s.patch) check_patch_item(p, s, w);
      if (s.runs) check_run_item(p, s, w, channel_blocks), ++run_items;
    }
    holds(ended, "a list without an end");
  }
  if (c.splits > 1) check_shares(p, m, c, tiles);
  std::set<int> used;
  int64_t pixels = 0;
  for (const auto& [at, t] : tiles) {
    holds(t.stores == t.sharers, "a tile is not stored once");
    holds(int(t.shares.size()) == t.parts * t.sharers, "a share is missing");
    const int list = t.shares.begin()->second.first_tap;  // the tile's first share begins it
    int end = 0;
    for (const auto& [where, share] : t.shares) {
      const int before = s.patch ? 0 : (share.first_tap - list) * channel_blocks;
      holds(before + share.lo == end, "shares do not join");
      end = before + share.hi;
    }
    if (t.parts > 1) {
      ++cut_tiles;
      holds(t.counters.size() == 1 && used.insert(*t.counters.begin()).second, "tiles share a counter");
      holds(*t.slots.begin() == t.first_slot && *t.slots.rbegin() == t.first_slot + t.parts - 2,
            "parts are not where they are looked for");
      holds(t.stored_by > t.last_left_by, "a block waits for one behind it");
    }
    // The sum must be at least as long as any of its pixels needs.
    holds(end % channel_blocks == 0, "a tap is cut off");
    if (s.runs) {
      for (int64_t o = at[3]; o < std::min<int64_t>(at[3] + s.box.extent[2], p.N * volume(p.output)); ++o, ++pixels)
        holds(end / channel_blocks >= live_taps(p, {0, o / p.output[2] % p.output[1], o % p.output[2]}),
              "a live tap is missing");
      continue;
    }
    for (int n = at[0]; n < std::min<int64_t>(p.N, at[0] + s.box.n); ++n) {
      Dims q;
      const auto out_step = [&](int i) { return step ? 1 : p.stride[i]; };
      for (q[0] = at[1]; q[0] < std::min(p.output[0], at[1] + s.box.extent[0] * out_step(0)); q[0] += out_step(0))
        for (q[1] = at[2]; q[1] < std::min(p.output[1], at[2] + s.box.extent[1] * out_step(1)); q[1] += out_step(1))
          for (q[2] = at[3]; q[2] < std::min(p.output[2], at[3] + s.box.extent[2] * out_step(2)); q[2] += out_step(2)) {
            ++pixels;
            holds(end / channel_blocks >= live_taps(p, q), "a live tap is missing");
          }
    }
  }
  holds(pixels == p.N * volume(p.output) * ((p.filter.K + c.shape.bn - 1) / c.shape.bn), "output pixels covered");
  ++schedules;
}

// A cluster that holds an image in registers must have room for it.
void check_halved(const Problem& p, int multiprocessors) {
  const HalvedInput x(p, multiprocessors);
  const int blocks = x.cluster();
  require(x.pitch() % kHalvedBlock == 0 && x.pitch() >= p.filter.C, "the pitch of halves", p, {});
  if (blocks == 0) return;
  require(std::has_single_bit(unsigned(blocks)) && blocks <= 8, "blocks of a cluster", p, {});
  require(x.pixels * x.pitch() <= int64_t(blocks) * HalvedInput::kThreads * HalvedInput::kMostHeld * 4,
          "an image is larger than its cluster", p, {});
  require(p.x2_channels == 0 && x.pitch() == p.filter.C, "an image that is not a row", p, {});
  ++held_images;
}

// The best schedules against all of them: those of distinct names, in order, and none that is left out is better. Where
// tiles are dealt in many waves their order is by an even share, which a deal exceeds by a tile of 32 at most.
void check_best(const Problem& p, const Operands& o, const Machine& m) {
  constexpr double kEvenShare = 1 + 1.0 / 32;
  std::map<std::string, double> cycles;
  for (const Config& c : all_configs(p, o)) {
    const Schedule s = make_schedule(p, o, m, c);
    require(!cycles.contains(name_of(c)), "two configurations of one name", p, c);
    cycles[name_of(c)] = s.clusters ? s.cycles : INFINITY;
    const std::optional<Config> named = config_named(name_of(c), p, o);
    require(named && named->cut == c.cut && named->splits == c.splits && named->blocks_per_sm == c.blocks_per_sm &&
                named->shape.bm() == c.shape.bm() && named->shape.bn == c.shape.bn &&
                named->shape.team == c.shape.team && named->shape.source == c.shape.source &&
                named->shape.curve == c.shape.curve && named->halved == c.halved && named->pairs == c.pairs,
            "another configuration under its name", p, c);
  }
  for (const char* name : {"", "solo", "solo 64x64 ", "Solo 64x64", "solo 64x63", "solo 64x64 splits 3"})
    require(!config_named(name, p, o), "a configuration under no name", p, {});

  const size_t fitting = size_t(std::ranges::count_if(cycles, [](const auto& c) { return c.second < INFINITY; }));
  for (const size_t most : {size_t(1), size_t(10), size_t(1000)}) {
    const std::vector<Schedule> best = best_schedules(p, o, m, most);
    require(best.size() == std::min(most, fitting), "how many are best", p, {});
    require(name_of(best[0].config) == name_of(choose_schedule(p, o, m).config), "the chosen one is not first", p,
            best[0].config);
    std::map<std::string, double> left = cycles;
    for (size_t i = 0; i < best.size(); ++i) {
      check(p, o, m, best[i]);
      require(left.erase(name_of(best[i].config)) == 1, "one of the best is there twice", p, best[i].config);
      require(i == 0 || best[i - 1].cycles <= best[i].cycles * kEvenShare, "the best out of order", p, best[i].config);
    }
    for (const auto& [name, its] : left)
      require(its * kEvenShare >= best.back().cycles, "a better one is left out", p, best.back().config);
  }
}

}  // namespace

int main() {
  std::mt19937 random(3);
  const auto pick = [&](int low, int high) { return int64_t(low + random() % (high - low + 1)); };
  const Machine whole, slice{.multiprocessors = 16, .clusters = {{{16, 8, 4, 0}, {32, 16, 8, 0}}}};
  for (int round = 0; round < 900; ++round) {
    const Machine& machine = round % 3 ? whole : slice;
    Attributes a;
    a.op = round % 2 ? Operator::kConv : Operator::kConvTranspose;
    const int rank = int(pick(1, 3));
    const int most = round % 3 == 1 ? 8 : 40;  // chunks of channels: patches are for few
    std::vector<int64_t> x{pick(1, 5)}, w{8 * pick(1, most), 8 * pick(1, most)}, end;
    for (int i = 0; i < rank; ++i) {
      w.push_back(pick(1, 4)), a.strides.push_back(pick(1, 3)), a.dilations.push_back(pick(1, 3));
      const int64_t reach = (w.back() - 1) * a.dilations.back() + 1;
      x.push_back(reach + pick(0, rank == 1 ? 200 : rank == 2 ? 20 : 6));
      a.pads.push_back(pick(0, int(reach) / 2)), end.push_back(pick(0, int(reach) / 2));
    }
    a.pads.insert(a.pads.end(), end.begin(), end.end());
    const Filter filter = make_filter(a, w);
    x.push_back(filter.C);
    const Problem p = make_problem(a, filter, x, Layout::kNHWC);
    check_halved(p, machine.multiprocessors);
    for (const auto& [element_bytes, products] : {std::pair{2, 1}, {4, 1}, {4, 3}}) {
      for (const Curve curve : {Curve::kPiecewiseLinear, Curve::kAny}) {
        const bool can_be_halved = element_bytes == 4 && products == 1;
        const Operands o{element_bytes, products, filter.C, curve, element_bytes, can_be_halved};
        const DataType type = element_bytes == 2 ? DataType::kHalf : DataType::kFloat;
        require(
            cks::cuda::hopper_takes({filter, p.stride, type, Layout::kNHWC, Precision::kTF32}, {90, 132, 228 << 10}),
            "refused", p, {});
        check(p, o, machine, choose_schedule(p, o, machine));
        if (round % 10 > 1) continue;  // both operators
        if (round % 30 == 0) check_best(p, o, machine);
        for (const Config& c : all_configs(p, o)) {
          const Schedule s = make_schedule(p, o, machine, c);
          if (s.clusters) check(p, o, machine, s);
        }
      }
    }
  }
  std::printf(
      "%ld schedules, %ld work items, %ld of runs, %ld cut tiles, %ld schedules of uneven shares, %ld tiles of several "
      "patches; %ld images in registers\n",
      long(schedules), long(items), long(run_items), long(cut_tiles), long(uneven_shares), long(strided_patches),
      long(held_images));
  return cut_tiles > 0 && run_items > 0 && uneven_shares > 0 && strided_patches > 0 && held_images > 0 ? 0 : 1;
}

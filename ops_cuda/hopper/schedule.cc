#include "ops_cuda/hopper/schedule.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <optional>
#include <queue>
#include <ranges>

#include "ops_cuda/hopper/schedule_cost.h"
#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {
namespace {

int channel_blocks_of(const Operands& o) { return int(ceil_div(o.channels * o.element_bytes, kBlockBytes)); }

// A plan is the same for all configurations with equally many rows, the same source, and as many k-blocks a tap.
struct RowsPlan {
  int rows;
  Source source;
  bool halved;
  std::optional<Plan> plan;  // none where no patch serves
  std::optional<Patch> patch;
  std::optional<RunCorners> runs;
  std::vector<Index3> start;  // of each tile, relative to its first input pixel, where it is a run
};

RowsPlan plan_rows(const Problem& p, const Operands& o, const Config& config) {
  const int rows = config.shape.bm();
  const Source source = config.shape.source;
  const double tile_overhead =
      2.0 / channel_blocks_of(multiplied(o, config));  // about two k-blocks more than its taps (measured)
  RowsPlan r{rows, source, config.halved, {}, {}, {}, {}};
  if (source == Source::kPatches) {
    if (std::optional<PatchPlan> found = plan_patches(p, rows, tile_overhead))
      r.plan = std::move(found->plan), r.patch = found->patch;
    return r;
  }
  Index3 limit;
  for (int i = 0; i < 3; ++i)
    limit[i] = int32_t(kMaxTensorBox / p.stride[i]);  // input step or output step, as the operator has it
  r.plan = make_plan(p, choose_box(p, rows, tile_overhead, limit));
  std::optional<RunsPlan> runs = plan_runs(p, rows);
  const auto multiplied = [&](const Plan& plan) {
    return double(plan.executed_pixel_taps) + tile_overhead * double(plan.tiles.size()) * rows;
  };
  if (runs && multiplied(runs->plan) < multiplied(*r.plan))
    r.plan = std::move(runs->plan), r.runs = run_corners(p), r.start = std::move(runs->start);
  return r;
}

// Of the finished tiles, or of the partial ones that a cluster adds up.
int out_bytes(const Config& c, const Operands& o) {
  return c.splits > 1 ? c.shape.bm() * c.shape.bn * int(sizeof(float)) : c.shape.staged_bytes(o.output_bytes);
}

int filter_bytes(const TileShape& s, const Operands& o) { return s.bn * filter_row(o.element_bytes, o.products) * 2; }

int stage_bytes(const TileShape& s, const Operands& o) {
  return filter_bytes(s, o) + (s.source == Source::kBoxes ? s.bm() * kBlockBytes : 0);
}

// For the rings, beside the finished tiles.
int ring_bytes(const Config& c, const Operands& o, const Machine& m) {
  return (c.blocks_per_sm == 1 ? m.shared_bytes : m.shared_bytes / 2) - kFixedSharedBytes - out_bytes(c, o);
}

// Everything about a configuration that does not depend on how its tiles are dealt.
struct Setting {
  const Plan* plan;
  const std::vector<Index3>* start;
  Schedule schedule;  // without items
  int columns;        // of tiles; a pair's are one
  int channel_blocks;
  std::vector<int> sharers;  // of each tile, where the blocks of a cluster share tiles
  Cost cost;
};

// Of all tiles together, patches or boxes for each k-block, and those beside one for each block of channels.
struct Copies {
  double all, more;
};
Copies copies_of(const Plan& plan, bool patches) {
  if (!patches) return {1, 0};
  double taps = 0, all = 0, one = 0;
  for (const Tile& t : plan.tiles) taps += t.num_taps, all += patches_of(plan, t), one += t.num_taps > 0;
  return {all / std::max(taps, 1.0), (all - one) / std::max(taps, 1.0)};
}

// How many blocks of a cluster of `splits` share each tile, a power of two: twice as many for the tiles of the longest
// shares, as long as a cluster and the GPU's `blocks` allow. Empty where there are more tiles than blocks, or where
// smaller clusters would do.
std::vector<int> share_tiles(const Plan& plan, int columns, int splits, int64_t blocks) {
  std::vector<int> sharers(plan.tiles.size(), 1);
  int64_t left = blocks - int64_t(sharers.size()) * columns;
  while (left >= 0) {
    const auto share = [&](size_t i) { return double(plan.tiles[i].num_taps) / sharers[i]; };
    double longest = 0;
    for (size_t i = 0; i < sharers.size(); ++i) longest = std::max(longest, share(i));
    int64_t more = 0, most = 0;
    for (size_t i = 0; i < sharers.size(); ++i) {
      if (share(i) == longest) more += sharers[i] * columns, most = std::max<int64_t>(most, sharers[i]);
    }
    if (most == splits || more > left) break;
    left -= more;
    for (size_t i = 0; i < sharers.size(); ++i) {
      if (share(i) == longest) sharers[i] *= 2;
    }
  }
  if (left < 0 || std::ranges::max(sharers) < splits) return {};
  return sharers;
}

std::optional<Setting> make_setting(const Problem& p, const Operands& given, const Machine& m, const Config& config,
                                    const RowsPlan& rows) {
  if (!rows.plan) return {};
  const Operands o = multiplied(given, config);
  const TileShape& s = config.shape;
  const Plan& plan = *rows.plan;
  const int channel_blocks = channel_blocks_of(o), one_patch = rows.patch ? patch_pitch(*rows.patch) : 0;
  const int for_rings = ring_bytes(config, o, m);
  const int fitting = (for_rings - kLeastPatchStages * one_patch) / stage_bytes(s, o);
  const int64_t whole_filter = p.filter.taps() * channel_blocks;
  Schedule r;
  r.config = config, r.box = plan.box, r.patch = rows.patch, r.runs = rows.runs;
  r.filter_stays = rows.patch && p.filter.K <= s.bn && whole_filter <= std::min(fitting, kMaxFilterStages);
  r.stages = r.filter_stays ? int(whole_filter) : std::min(fitting, kMaxStages);
  if (!r.filter_stays && r.stages < (s.team == Team::kShared ? 3 : 4)) return {};
  int rings = r.stages * stage_bytes(s, o);
  if (rows.patch) r.patch_stages = std::min((for_rings - rings) / one_patch, kMostPatchStages);
  rings += r.patch_stages * one_patch;
  r.shared_bytes = size_t(rings) + 1024 + out_bytes(config, o);
  const int columns = int(ceil_div(p.filter.K, config.pairs ? 2 * s.bn : s.bn));
  const int at_once = m.clusters[config.blocks_per_sm - 1][std::countr_zero(unsigned(config.cluster()))];
  if (at_once == 0) return {};  // a slice of a GPU may have no GPC that holds such a cluster
  const int64_t items = int64_t(plan.tiles.size()) * columns;
  std::vector<int> sharers;
  int busy_blocks = 0;
  if (config.splits > 1) {
    sharers = share_tiles(plan, columns, config.splits, int64_t(at_once) * config.splits);
    if (sharers.empty()) return {};
    busy_blocks = columns * std::accumulate(sharers.begin(), sharers.end(), 0);
    r.clusters = int(ceil_div(busy_blocks, config.splits));
  } else {
    r.clusters = config.cut ? at_once : int(std::min<int64_t>(items, at_once));
    busy_blocks = r.blocks();
  }
  const Copies copies = copies_of(plan, rows.patch.has_value());
  const Box& copied = rows.patch ? rows.patch->box : plan.box;
  const Fetched fetched{kBlockBytes * double(copied.pixels()) * copies.all, r.filter_stays ? 0.0 : filter_bytes(s, o),
                        copies.more};
  Cost cost = cost_of(config, o, fetched, r.filter_stays ? std::nullopt : std::optional(r.stages), busy_blocks, m);
  if (config.halved) cost.start += cycles_to_halve(HalvedInput(p, m.multiprocessors));
  return Setting{&plan, &rows.start, std::move(r), columns, channel_blocks, std::move(sharers), cost};
}

// What a cluster does for a tile: k-blocks [lo, hi) of its sum. The one that has the last of them stores it; the
// others, `before` it, leave theirs to it. A cluster has its pieces in the order of their turns. Its blocks from
// `first_rank` on, as many as share the tile, have a share each.
struct Piece {
  enum Turn { kInStep, kLeaves, kWhole, kWaits };
  int tile, column, lo, hi, before;
  Turn turn;
  int first_rank = 0, sharers = 1;
  bool stores() const { return turn != kLeaves; }
};

int length_of(const Setting& s, int tile) { return s.plan->tiles[tile].num_taps * s.channel_blocks; }

// Gives tiles to the cluster that is free first, longest first, as a plan has them: the first `count` of them, which
// count by columns first. Calls take(cluster, piece); returns the cycles until each cluster is done.
template <class F>
std::vector<double> deal_whole(const Setting& s, int64_t count, const F& take) {
  using Load = std::pair<double, int>;
  std::vector<Load> loads(s.schedule.clusters);
  for (int i = 0; i < s.schedule.clusters; ++i) loads[i] = {s.cost.start + s.cost.last_tile, i};
  std::priority_queue<Load, std::vector<Load>, std::greater<>> queue(std::greater<>{}, std::move(loads));
  std::vector<double> done(s.schedule.clusters, s.cost.start + s.cost.last_tile);
  for (int64_t i = 0; i < count; ++i) {
    const int tile = int(i / s.columns), length = length_of(s, tile), cluster = queue.top().second;
    queue.pop();
    done[cluster] += s.cost.tile + s.cost.k_block * length;
    queue.push({done[cluster], cluster});
    take(cluster, Piece{tile, int(i % s.columns), 0, length, 0, Piece::kInStep});
  }
  return done;
}

// Gives each tile the blocks that share it, tiles of the most blocks first, so that none lies in two clusters. Calls
// take(cluster, piece); returns the cycles until the last block is done.
template <class F>
double deal_shares(const Setting& s, const F& take) {
  std::vector<int> order(s.sharers.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>{}, [&](int tile) { return s.sharers[tile]; });
  const int splits = s.schedule.config.splits;
  int64_t longest = 0;
  int block = 0;
  for (const int tile : order) {
    const int length = length_of(s, tile), sharers = s.sharers[tile];
    longest = std::max(longest, ceil_div(length, sharers));
    for (int column = 0; column < s.columns; ++column, block += sharers)
      take(block / splits, Piece{tile, column, 0, length, 0, Piece::kInStep, block % splits, sharers});
  }
  return s.cost.start + s.cost.last_tile + s.cost.tile + s.cost.k_block * double(longest);
}

int64_t all_tiles(const Setting& s) { return int64_t(s.plan->tiles.size()) * s.columns; }

constexpr int kShortestPart = 4;  // k-blocks

// So many tiles are dealt whole before any is cut, as long as there are two for each cluster: blocks that work on
// neighbours at the same time read the same lines.
int64_t tiles_in_step(const Setting& s) {
  return std::max<int64_t>(all_tiles(s) / s.schedule.clusters - 1, 0) * s.schedule.clusters;
}

// Of the tiles behind those in step, with which a cluster is `done` after so many cycles, it fills one cluster after
// the other with what it can do in `cycles`, and cuts a tile where a cluster is full; who comes next goes on with it.
// What a cluster leaves it sums first, and early enough for who waits for it. Calls take(cluster, piece); false if the
// clusters cannot hold all tiles.
template <class F>
bool deal_cut(const Setting& s, const std::vector<double>& done, double cycles, const F& take) {
  const Cost& cost = s.cost;
  int cluster = 0;
  double room = cycles - done[0], left = room;  // of the current cluster
  for (int64_t i = tiles_in_step(s); i < all_tiles(s); ++i) {
    const int tile = int(i / s.columns), length = length_of(s, tile);
    Piece piece{tile, int(i % s.columns), 0, length, 0, Piece::kWhole};
    const auto rest = [&] { return cost.tile + piece.before * cost.add + cost.k_block * (length - piece.lo); };
    while (rest() > left) {
      const double spare = std::min(left, room - cost.delay - cost.add) - cost.leave;
      const int fitting = std::min(int(spare / cost.k_block), length - piece.lo - kShortestPart);
      if (fitting >= kShortestPart) {
        piece.hi = piece.lo + fitting, piece.turn = Piece::kLeaves;
        take(cluster, piece);
        piece = {piece.tile, piece.column, piece.hi, length, piece.before + 1, Piece::kWaits};
      }
      if (++cluster == s.schedule.clusters) return false;
      left = room = cycles - done[cluster];
    }
    left -= rest();
    take(cluster, piece);
  }
  return true;
}

constexpr auto kNobody = [](int, const Piece&) {};

// An even share of all tiles: no way to deal them, cut or not, takes fewer cycles.
double even_share(const Setting& s) {
  if (!s.sharers.empty()) return deal_shares(s, kNobody);
  double all = 0;
  for (const Tile& t : s.plan->tiles) all += s.cost.tile + s.cost.k_block * t.num_taps * s.channel_blocks;
  return s.cost.start + s.cost.last_tile + all * s.columns / s.schedule.clusters;
}

// How long the tiles take, and whether they are cut for that.
struct Deal {
  double cycles;
  bool cut;
};

Deal choose_deal(const Setting& s) {
  if (!s.sharers.empty()) return {deal_shares(s, kNobody), false};
  // Many waves even out by themselves.
  if (all_tiles(s) > 32 * s.schedule.clusters) return {even_share(s), false};
  Deal best{std::ranges::max(deal_whole(s, all_tiles(s), kNobody)), false};
  if (!s.schedule.config.cut) return best;
  const std::vector<double> done = deal_whole(s, tiles_in_step(s), kNobody);
  double least = even_share(s);
  while (least < best.cycles * 0.995) {
    const double between = (least + best.cycles) / 2;
    if (deal_cut(s, done, between, kNobody)) {
      best = {between, true};
    } else {
      least = between;
    }
  }
  return best;
}

WorkItem whole_tile(const Plan& plan, const Tile& t) {
  const Phase& phase = plan.phases[t.phase];
  WorkItem w{};
  w.input.n = t.n;
  int32_t* const in[3] = {&w.input.d, &w.input.h, &w.input.w};
  int32_t* const out[3] = {&w.output.d, &w.output.h, &w.output.w};
  for (int i = 0; i < 3; ++i) {
    *in[i] = t.origin[i] * phase.in_step[i];
    *out[i] = phase.first[i] + t.origin[i] * phase.step[i];
  }
  return w;
}

// Of a tile's k-blocks those from `lo` to `hi`.
void take_range(const Setting& s, const Tile& t, int lo, int hi, WorkItem& w) {
  const int32_t taps_before = s.schedule.patch ? 0 : lo / s.channel_blocks, before = taps_before * s.channel_blocks;
  w.output.first_tap = t.first_tap + taps_before;
  w.sum.lo = lo - before, w.sum.hi = hi - before;
  if (lo == hi) return;  // an empty share at the end of a list starts nowhere
  const Tap& start = s.plan->taps[w.output.first_tap];
  w.start = {start.offset[0], start.offset[1], start.offset[2], start.filter};
}

Schedule finish(const Setting& s, const Deal& deal) {
  Schedule r = s.schedule;
  std::vector<std::vector<Piece>> pieces(r.clusters);
  const auto take = [&](int cluster, const Piece& piece) { pieces[cluster].push_back(piece); };
  if (deal.cut) {
    deal_cut(s, deal_whole(s, tiles_in_step(s), take), deal.cycles, take);
    r.cycles = deal.cycles;
  } else if (!s.sharers.empty()) {
    r.cycles = deal_shares(s, take);
  } else {
    r.cycles = std::ranges::max(deal_whole(s, all_tiles(s), take));
  }
  // The blocks of a cluster have a column each, or share a tile's sum; a tile is not divided in both ways.
  const auto blocks_of = [&](const Piece& piece) { return r.config.pairs ? 2 : piece.sharers; };
  const auto column_of = [&](const Piece& piece, int block) {
    return r.config.pairs ? piece.column * 2 + block : piece.column;
  };
  struct Place {
    int slot, counter;
  };
  std::map<std::pair<int, int>, Place> cut_tiles;  // (tile, column) -> where its parts meet
  for (const Piece& piece : pieces | std::views::join) {
    if (piece.turn != Piece::kWaits) continue;
    for (int block = 0; block < blocks_of(piece); ++block, r.slots += piece.before, ++r.counters)
      cut_tiles[{piece.tile, column_of(piece, block)}] = {r.slots, r.counters};
  }
  std::vector<std::vector<WorkItem>> lists(r.blocks());
  for (int cluster = 0; cluster < r.clusters; ++cluster) {
    std::ranges::stable_sort(pieces[cluster], {}, &Piece::turn);
    for (const Piece& piece : pieces[cluster]) {
      const Tile& t = s.plan->tiles[piece.tile];
      WorkItem w = whole_tile(*s.plan, t);
      if (!s.start->empty()) {
        const Index3& start = (*s.start)[piece.tile];
        w.input.d += start[0], w.input.h += start[1], w.input.w += start[2];
      }
      w.sum.parts = piece.stores() ? piece.before + 1 : WorkItem::kPart;
      w.part.sharers = piece.sharers;
      if (r.patch) w.patches = {t.num_taps, patches_of(*s.plan, t)};
      for (int block = 0; block < blocks_of(piece); ++block) {
        const int column = column_of(piece, block);
        w.sum.k0 = column * r.config.shape.bn;
        if (const auto at = cut_tiles.find({piece.tile, column}); at != cut_tiles.end())
          w.part.slot = at->second.slot + (piece.stores() ? 0 : piece.before), w.part.counter = at->second.counter;
        const auto share = [&](int i) { return int(int64_t(piece.hi - piece.lo) * i / piece.sharers) + piece.lo; };
        take_range(s, t, share(block % piece.sharers), share(block % piece.sharers + 1), w);
        lists[cluster * r.config.cluster() + piece.first_rank + block].push_back(w);
      }
    }
  }
  r.taps = s.plan->taps;
  size_t rounds = 0;
  for (const auto& list : lists) rounds = std::max(rounds, list.size());
  r.items.assign((rounds + 1) * lists.size(), WorkItem{});  // WorkItem::kEnd behind each list
  for (size_t i = 0; i < lists.size(); ++i) {
    for (size_t j = 0; j < lists[i].size(); ++j) r.items[j * lists.size() + i] = lists[i][j];
  }
  return r;
}

}  // namespace

Operands multiplied(const Operands& o, const Config& c) {
  if (!c.halved) return o;
  return {sizeof(uint16_t), 1, round_up(o.channels, kHalvedBlock), o.curve, o.output_bytes};
}

Curve curve_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kPRelu:
    case ActivationKind::kClip:
      return Curve::kPiecewiseLinear;
    default:
      return Curve::kAny;
  }
}

std::vector<Config> all_configs(const Problem& p, const Operands& o) {
  int narrowest = kTileShapes[0].bn;
  for (const TileShape& s : kTileShapes) {
    if (s.curve == o.curve) narrowest = std::min(narrowest, s.bn);
  }
  std::vector<Config> configs;
  for (const TileShape& s : kTileShapes) {
    if (s.curve != o.curve || !s.serves(o.element_bytes, o.products)) continue;
    if (s.bn > narrowest && p.filter.K <= s.bn / 2) continue;         // more than half of every tile would be empty
    if (s.source == Source::kPatches && p.filter.K > s.bn) continue;  // wider tiles are better
    for (const bool halved : {false, true}) {
      if (halved && !(o.can_be_halved && s.serves_halved())) continue;
      for (const int splits : {1, 2, 4, 8}) {
        if (splits > 1 && !s.can_be_split()) continue;
        for (int blocks = 1; blocks <= s.max_blocks_per_sm(o.products); ++blocks)
          configs.push_back({s, splits, blocks, false, halved});
      }
      if (s.can_be_cut()) configs.push_back({s, 1, 1, true, halved});
      if (!s.can_pair(halved ? int(sizeof(uint16_t)) : o.element_bytes) || ceil_div(p.filter.K, s.bn) % 2 != 0)
        continue;
      configs.push_back({s, 1, 1, false, halved, true});
      if (s.can_be_cut()) configs.push_back({s, 1, 1, true, halved, true});
    }
  }
  return configs;
}

Schedule make_schedule(const Problem& p, const Operands& o, const Machine& m, const Config& config) {
  const RowsPlan rows = plan_rows(p, o, config);
  const std::optional<Setting> setting = make_setting(p, o, m, config, rows);
  return setting ? finish(*setting, choose_deal(*setting)) : Schedule{};
}

Schedule choose_schedule(const Problem& p, const Operands& o, const Machine& m) {
  return std::move(best_schedules(p, o, m, 1).front());
}

std::vector<Schedule> best_schedules(const Problem& p, const Operands& o, const Machine& m, size_t most) {
  std::vector<RowsPlan> plans;
  plans.reserve(2 * std::size(kTileShapes));  // settings point to them
  const auto plan_of = [&](const Config& c) -> const RowsPlan& {
    const auto same = [&](const RowsPlan& r) {
      return r.rows == c.shape.bm() && r.source == c.shape.source && r.halved == c.halved;
    };
    const auto at = std::ranges::find_if(plans, same);
    return at != plans.end() ? *at : plans.emplace_back(plan_rows(p, o, c));
  };
  struct Candidate {
    Setting setting;
    Deal deal;
    double cycles() const { return deal.cycles; }
  };
  std::vector<Candidate> best;  // sorted
  for (const Config& c : all_configs(p, o)) {
    std::optional<Setting> setting = make_setting(p, o, m, c, plan_of(c));
    const bool full = best.size() == most;
    if (!setting || (full && even_share(*setting) >= best.back().cycles())) continue;
    const Deal deal = choose_deal(*setting);
    if (full && deal.cycles >= best.back().cycles()) continue;
    if (full) best.pop_back();
    const auto behind = std::ranges::upper_bound(best, deal.cycles, {}, &Candidate::cycles);
    best.insert(behind, {std::move(*setting), deal});
  }
  if (best.empty()) throw Error("no tile of the Hopper kernel fits the shared memory of this device");
  std::vector<Schedule> schedules;
  for (const Candidate& c : best) schedules.push_back(finish(c.setting, c.deal));
  return schedules;
}

std::string name_of(const Config& c) {
  const auto team = [](Team t) {
    switch (t) {
      case Team::kSolo:
        return "solo";
      case Team::kShared:
        return "shared";
      case Team::kAlternate:
        return "alternate";
    }
    return "";
  };
  const auto source = [](Source s) {
    switch (s) {
      case Source::kBoxes:
        return "";
      case Source::kPatches:
        return " patches";
    }
    return "";
  };
  return std::string(team(c.shape.team)) + " " + std::to_string(c.shape.bm()) + "x" + std::to_string(c.shape.bn) +
         source(c.shape.source) + (c.splits > 1 ? " splits " + std::to_string(c.splits) : "") +
         (c.blocks_per_sm > 1 ? " two an SM" : "") + (c.cut ? " cut" : "") + (c.halved ? " of halves" : "") +
         (c.pairs ? " in pairs" : "");
}

std::optional<Config> config_named(std::string_view name, const Problem& p, const Operands& o) {
  if (name.empty()) return {};  // as in every plan without a search: no list of names need be made
  for (const Config& c : all_configs(p, o)) {
    if (name_of(c) == name) return c;
  }
  return {};
}

}  // namespace cks::cuda::hopper

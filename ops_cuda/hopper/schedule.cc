#include "ops_cuda/hopper/schedule.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <optional>
#include <ranges>

#include "ops_cuda/hopper/deal.h"
#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {
namespace {

int channel_blocks_of(const Operands& o) { return int(ceil_div(o.channels * o.element_bytes, kBlockBytes)); }

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

// A plan is the same for all configurations with equally many rows, the same source, and as many k-blocks a tap.
struct RowsPlan {
  int rows;
  Source source;
  bool halved;
  std::optional<Plan> plan;  // none where no patch serves
  std::optional<Patch> patch;
  std::optional<RunCorners> runs;
  std::vector<Index3> start;  // of each tile, relative to its first input pixel, where it is a run
  int channel_blocks;
  std::vector<int> lengths;  // of the tiles, in k-blocks
  Copies copies;
};

RowsPlan plan_rows(const Problem& p, const Operands& o, const Config& config) {
  RowsPlan r{};
  r.rows = config.shape.bm(), r.source = config.shape.source, r.halved = config.halved;
  r.channel_blocks = channel_blocks_of(multiplied(o, config));
  const double tile_overhead = 2.0 / r.channel_blocks;  // about two k-blocks more than its taps (measured)
  if (r.source == Source::kPatches) {
    if (std::optional<PatchPlan> found = plan_patches(p, r.rows, tile_overhead))
      r.plan = std::move(found->plan), r.patch = found->patch;
  } else {
    Index3 limit;
    for (int i = 0; i < 3; ++i)
      limit[i] = int32_t(kMaxTensorBox / p.stride[i]);  // input step or output step, as the operator has it
    r.plan = make_plan(p, choose_box(p, r.rows, tile_overhead, limit));
    std::optional<RunsPlan> runs = plan_runs(p, r.rows);
    const auto multiplied = [&](const Plan& plan) {
      return double(plan.executed_pixel_taps) + tile_overhead * double(plan.tiles.size()) * r.rows;
    };
    if (runs && multiplied(runs->plan) < multiplied(*r.plan))
      r.plan = std::move(runs->plan), r.runs = run_corners(p), r.start = std::move(runs->start);
  }
  if (!r.plan) return r;
  for (const Tile& t : r.plan->tiles) r.lengths.push_back(t.num_taps * r.channel_blocks);
  r.copies = copies_of(*r.plan, r.patch.has_value());
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
  const RowsPlan* rows;
  Schedule schedule;  // without items
  Workload work;      // a pair's columns are one
};

std::optional<Setting> make_setting(const Problem& p, const Operands& given, const Machine& m, const Config& config,
                                    const RowsPlan& rows) {
  if (!rows.plan) return {};
  const Operands o = multiplied(given, config);
  const TileShape& s = config.shape;
  const Plan& plan = *rows.plan;
  const int one_patch = rows.patch ? patch_pitch(*rows.patch) : 0;
  const int for_rings = ring_bytes(config, o, m);
  const int fitting = (for_rings - kLeastPatchStages * one_patch) / stage_bytes(s, o);
  const int64_t whole_filter = p.filter.taps() * rows.channel_blocks;
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
  Workload work;
  work.lengths = rows.lengths, work.columns = columns, work.splits = config.splits, work.can_be_cut = config.cut;
  int busy_blocks = 0;
  if (config.splits > 1) {
    work.sharers = share_tiles(work.lengths, columns, config.splits, int64_t(at_once) * config.splits);
    if (work.sharers.empty()) return {};
    busy_blocks = columns * std::accumulate(work.sharers.begin(), work.sharers.end(), 0);
    r.clusters = int(ceil_div(busy_blocks, config.splits));
  } else {
    r.clusters = config.cut ? at_once : int(std::min<int64_t>(work.tiles(), at_once));
    busy_blocks = r.blocks();
  }
  work.clusters = r.clusters;
  const Box& copied = rows.patch ? rows.patch->box : plan.box;
  const Fetched fetched{kBlockBytes * double(copied.pixels()) * rows.copies.all,
                        r.filter_stays ? 0.0 : filter_bytes(s, o), rows.copies.more};
  work.cost = cost_of(config, o, fetched, r.filter_stays ? std::nullopt : std::optional(r.stages), busy_blocks, m);
  if (config.halved) work.cost.start += cycles_to_halve(HalvedInput(p, m.multiprocessors));
  return Setting{&rows, std::move(r), std::move(work)};
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
  const int channel_blocks = s.rows->channel_blocks;
  const int32_t taps_before = s.schedule.patch ? 0 : lo / channel_blocks, before = taps_before * channel_blocks;
  w.output.first_tap = t.first_tap + taps_before;
  w.sum.lo = lo - before, w.sum.hi = hi - before;
  if (lo == hi) return;  // an empty share at the end of a list starts nowhere
  const Tap& start = s.rows->plan->taps[w.output.first_tap];
  w.start = {start.offset[0], start.offset[1], start.offset[2], start.filter};
}

Schedule finish(const Setting& s, const Deal& how) {
  Schedule r = s.schedule;
  const Plan& plan = *s.rows->plan;
  const Dealt dealt = deal(s.work, how);
  r.cycles = dealt.cycles;
  // The blocks of a cluster have a column each, or share a tile's sum; a tile is not divided in both ways.
  const auto blocks_of = [&](const Piece& piece) { return r.config.pairs ? 2 : piece.sharers; };
  const auto column_of = [&](const Piece& piece, int block) {
    return r.config.pairs ? piece.column * 2 + block : piece.column;
  };
  struct Place {
    int slot, counter;
  };
  std::map<std::pair<int, int>, Place> cut_tiles;  // (tile, column) -> where its parts meet
  for (const Piece& piece : dealt.pieces | std::views::join) {
    if (piece.turn != Piece::kWaits) continue;
    for (int block = 0; block < blocks_of(piece); ++block, r.slots += piece.before, ++r.counters)
      cut_tiles[{piece.tile, column_of(piece, block)}] = {r.slots, r.counters};
  }
  std::vector<std::vector<WorkItem>> lists(r.blocks());
  for (int cluster = 0; cluster < r.clusters; ++cluster) {
    for (const Piece& piece : dealt.pieces[cluster]) {
      const Tile& t = plan.tiles[piece.tile];
      WorkItem w = whole_tile(plan, t);
      if (r.runs) {
        const Index3& start = s.rows->start[piece.tile];
        w.input.d += start[0], w.input.h += start[1], w.input.w += start[2];
      }
      w.sum.parts = piece.stores() ? piece.before + 1 : WorkItem::kPart;
      w.part.sharers = piece.sharers;
      if (r.patch) w.patches = {t.num_taps, patches_of(plan, t)};
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
  r.taps = plan.taps;
  size_t rounds = 0;
  for (const auto& list : lists) rounds = std::max(rounds, list.size());
  r.items.assign((rounds + 1) * lists.size(), WorkItem{});  // WorkItem::kEnd behind each list
  for (size_t i = 0; i < lists.size(); ++i) {
    for (size_t j = 0; j < lists[i].size(); ++j) r.items[j * lists.size() + i] = lists[i][j];
  }
  return r;
}

}  // namespace

Schedule make_schedule(const Problem& p, const Operands& o, const Machine& m, const Config& config) {
  const RowsPlan rows = plan_rows(p, o, config);
  const std::optional<Setting> setting = make_setting(p, o, m, config, rows);
  return setting ? finish(*setting, choose_deal(setting->work)) : Schedule{};
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
    if (!setting || (full && even_share(setting->work) >= best.back().cycles())) continue;
    const Deal deal = choose_deal(setting->work);
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

}  // namespace cks::cuda::hopper

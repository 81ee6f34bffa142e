#include "ops_cuda/hopper/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <queue>

namespace cks::cuda::hopper {
namespace {

constexpr int kBlockBytes = 128;                     // of channels: a k-block
constexpr int kMaxBox = 256, kMaxElementStride = 8;  // of a tensor map, elements it spans and their distance
constexpr int kFixedSharedBytes = 2048;              // barriers, and the alignment of the tiles

int ceil_div(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// A plan is the same for all configurations with equally many rows.
struct RowsPlan {
  int rows;
  Plan plan;
};

RowsPlan plan_rows(const Problem& p, const Operands& o, int rows) {
  const int channel_blocks = ceil_div(o.channels * o.element_bytes, kBlockBytes);
  Index3 limit;
  for (int i = 0; i < 3; ++i)
    limit[i] = int32_t(kMaxBox / p.stride[i]);  // input step or output step, as the operator has it
  // A tile costs about two k-blocks more than its taps (measured).
  return {rows, make_plan(p, choose_box(p, rows, 2.0 / channel_blocks, limit))};
}

// Cycles, from measurements on an H200 (docs/notebook.md): what a k-block and what a tile costs a block of this
// configuration.
struct Cost {
  double k_block, tile, last_tile, start;
};

Cost model(const Config& c, const Box& box, const Operands& o, int busy_blocks, const Machine& m) {
  const TileShape& s = c.shape;
  const double share = c.blocks_per_sm;  // blocks of one SM slow each other down
  const double multiply = s.bm() / 64 * 2.0 * s.bn * share;
  const double bytes_a_clock = busy_blocks > m.multiprocessors * 3 / 4 ? 43 : 60;  // all SMs together are bound by L2
  const double load = double(box.pixels() + s.bn) * kBlockBytes / bytes_a_clock * share;
  const double latency = s.team == Team::kSolo ? 190 + 0.6 * s.bn : 260;
  const double store = 400 + 0.025 * s.bm() * s.bn * o.element_bytes;
  const double split = c.splits > 1 ? 1700 : 0;
  Cost cost{.k_block = std::max({multiply, load, latency}), .tile = store + split, .last_tile = 0, .start = 1500};
  if (s.team == Team::kAlternate) cost.tile = 150, cost.last_tile = store;
  return cost;
}

int stages_that_fit(const Config& c, const Operands& o, const Machine& m) {
  const TileShape& s = c.shape;
  const int stage = (s.bm() + s.bn) * kBlockBytes;
  const int out = s.bm() * s.bn * (c.splits > 1 ? 4 : o.element_bytes) * (s.team == Team::kAlternate ? 2 : 1);
  const int budget = (c.blocks_per_sm == 1 ? m.shared_bytes : m.shared_bytes / 2) - kFixedSharedBytes;
  return std::min(kMaxStages, (budget - out) / stage);
}

// Deals the tiles to clusters, longest first, each to the cluster that is free first. Cycles until the last is done.
Schedule deal(const Problem& p, const Operands& o, const Machine& m, const Config& config, const Plan& plan,
              bool keep) {
  Schedule r;
  r.config = config, r.box = plan.box, r.stages = stages_that_fit(config, o, m);
  const TileShape& s = config.shape;
  r.cycles = std::numeric_limits<double>::infinity();
  if (r.stages < (s.team == Team::kSolo ? 4 : 3)) return r;
  r.shared_bytes =
      size_t(r.stages) * (s.bm() + s.bn) * kBlockBytes + 1024 +
      size_t(s.bm()) * s.bn * (config.splits > 1 ? 4 : o.element_bytes) * (s.team == Team::kAlternate ? 2 : 1);

  const int columns = ceil_div(p.filter.K, s.bn), channel_blocks = ceil_div(o.channels * o.element_bytes, kBlockBytes);
  const int64_t items = int64_t(plan.tiles.size()) * columns;
  const int clusters = int(std::min<int64_t>(items, m.multiprocessors * config.blocks_per_sm / config.splits));
  const Cost cost = model(config, plan.box, o, clusters * config.splits, m);

  std::vector<std::vector<WorkItem>> lists(keep ? clusters : 0);
  using Load = std::pair<double, int>;
  std::vector<Load> loads(clusters);
  for (int i = 0; i < clusters; ++i) loads[i] = {cost.start + cost.last_tile, i};
  std::priority_queue<Load, std::vector<Load>, std::greater<>> queue(std::greater<>{}, std::move(loads));
  r.cycles = 0;
  for (const Tile& t : plan.tiles) {
    const Phase& phase = plan.phases[t.phase];
    const double cycles = cost.tile + cost.k_block * t.num_taps * channel_blocks / config.splits;
    for (int column = 0; column < columns; ++column) {
      auto [load, cluster] = queue.top();
      queue.pop();
      queue.push({load + cycles, cluster});
      r.cycles = std::max(r.cycles, load + cycles);
      if (!keep) continue;
      WorkItem w{};
      w.n = t.n, w.k0 = column * s.bn, w.first_tap = t.first_tap, w.num_taps = t.num_taps;
      int32_t* const in[3] = {&w.d, &w.h, &w.w};
      int32_t* const out[3] = {&w.out_d, &w.out_h, &w.out_w};
      for (int i = 0; i < 3; ++i) {
        *in[i] = t.origin[i] * phase.in_step[i];
        *out[i] = phase.first[i] + t.origin[i] * phase.step[i];
      }
      lists[cluster].push_back(w);
    }
  }
  if (!keep) return r;
  r.taps = plan.taps;
  r.clusters = clusters;
  size_t rounds = 0;
  for (const auto& list : lists) rounds = std::max(rounds, list.size());
  WorkItem end{};
  end.num_taps = -1;
  r.items.assign((rounds + 1) * clusters, end);
  for (int i = 0; i < clusters; ++i) {
    for (size_t j = 0; j < lists[i].size(); ++j) r.items[j * clusters + i] = lists[i][j];
  }
  return r;
}

}  // namespace

bool can_implement(const Problem& p, const Operands& o, const char** reason) {
  *reason = nullptr;
  if (p.filter.groups != 1) *reason = "the tiles of a group do not fill the tensor cores";
  if (p.filter.K * o.element_bytes % 16) *reason = "output channels must fill 16 bytes for a tensor map";
  if (o.channels * o.element_bytes % 16) *reason = "input channels must fill 16 bytes for a tensor map";
  for (const int64_t stride : p.stride) {
    if (stride > kMaxElementStride) *reason = "a tensor map steps over at most 8 elements";
  }
  return !*reason;
}

std::vector<Config> all_configs(const Problem& p) {
  std::vector<Config> configs;
  for (const TileShape& s : kTileShapes) {
    if (s.bn > 32 && p.filter.K <= s.bn / 2) continue;  // more than half of every tile would be empty
    const bool solo = s.team == Team::kSolo;
    for (const int splits : {1, 2, 4, 8}) {
      if (splits > 1 && (!solo || s.bn / 16 < splits)) continue;
      for (const int blocks : {1, 2}) {
        if (blocks == 2 && !solo) continue;
        configs.push_back({s, splits, blocks});
      }
    }
  }
  return configs;
}

Schedule make_schedule(const Problem& p, const Operands& o, const Machine& m, const Config& config) {
  return deal(p, o, m, config, plan_rows(p, o, config.shape.bm()).plan, true);
}

Schedule choose_schedule(const Problem& p, const Operands& o, const Machine& m) {
  std::vector<RowsPlan> plans;
  const auto plan_of = [&](int rows) -> const Plan& {
    const auto at = std::ranges::find(plans, rows, &RowsPlan::rows);
    return at != plans.end() ? at->plan : plans.emplace_back(plan_rows(p, o, rows)).plan;
  };
  plans.reserve(3);
  std::optional<Config> best;
  double least = std::numeric_limits<double>::infinity();
  for (const Config& c : all_configs(p)) {
    const double cycles = deal(p, o, m, c, plan_of(c.shape.bm()), false).cycles;
    if (cycles < least) least = cycles, best = c;
  }
  if (!best) throw Error("no tile of the Hopper kernel fits the shared memory of this device");
  return deal(p, o, m, *best, plan_of(best->shape.bm()), true);
}

}  // namespace cks::cuda::hopper

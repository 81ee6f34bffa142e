// The schedules of the Hopper weight gradient, on the host: over random problems and layouts of boxes, what the blocks
// would multiply is decoded from shared-memory offsets back to pixels. Each pair of an output pixel and a tap that
// meets a real input pixel must be multiplied exactly once for each square of channels, and every other pair of pixels
// must have a zero on one side.
#include "ops_cuda/hopper/gradient_schedule.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

namespace {

using namespace cks;
using namespace cks::cuda::hopper;

int64_t schedules = 0, pairs = 0, split_sums = 0, joined_teams = 0, direct_schedules = 0, shared_sums = 0, narrow = 0,
        whole_strides = 0;

void require(bool holds, const char* what, const Problem& p, const GradientSchedule& s) {
  if (holds) return;
  const auto dims = [](const char* name, const Dims& v) {
    std::printf(" %s %ldx%ldx%ld", name, long(v[0]), long(v[1]), long(v[2]));
  };
  std::printf("FAIL: %s\n  N %ld C %ld K %ld", what, long(p.N), long(p.filter.C), long(p.filter.K));
  dims("filter", p.filter.extent), dims("input", p.input), dims("output", p.output), dims("stride", p.stride);
  dims("dilation", p.dilation), dims("pad", p.pad);
  std::printf("; images inner %d, box %d %d %d %d, X box %d %d %d %d, tile %d x %d\n", s.layout.images_inner,
              s.layout.box[0], s.layout.box[1], s.layout.box[2], s.layout.box[3], s.x_box[0], s.x_box[1], s.x_box[2],
              s.x_box[3], s.tile_k, s.tile_c);
  std::exit(1);
}

struct Pixel {
  int64_t n;
  Dims at;
};

// The pixel of a box that begins at a row of shared memory, relative to the box's first; false outside the box.
bool decode(const BoxLayout& layout, const Axes& box, int64_t row, Pixel& pixel) {
  Axes i;
  for (int a = 0; a < 4; ++a) i[a] = int32_t(row % box[a]), row /= box[a];
  const auto& [a0, a1, a2, a3] = i;
  pixel = layout.images_inner ? Pixel{a0, {a3, a2, a1}} : Pixel{a3, {a2, a1, a0}};
  return row == 0;
}

// What one wgmma does together: the same k-steps of one operand of dY, and operands of X equally far apart; of narrow
// squares, what lies where taps are missing is in the block's shared memory.
void check_joined(const Problem& p, const GradientSchedule& s) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, s); };
  const int team_slots = s.shape.slots(), run_slots = s.shape.narrow() ? s.shape.join : team_slots;
  for (int first = 0; first < int(s.slots.size()); first += run_slots) {
    const GradientSlot& base = s.slots[size_t(first)];
    if (s.shape.narrow() ? base.k < 0 : base.apart == 0) continue;
    ++joined_teams;
    holds(base.apart >= 0 && base.apart < 1 << 14, "a distance that no descriptor holds");
    const int tap_set = first / s.shape.squares(), at = first % s.shape.squares();
    int taps = 0;
    for (int i = 0; i < run_slots; ++i) {
      const GradientSlot& slot = s.slots[size_t(first + i)];
      if (slot.k < 0) continue;
      holds(i == taps++, "a missing tap before another one of a run");
      holds(slot.a == base.a && slot.b == base.b + i * base.apart, "a joined square");
    }
    holds(taps == run_slots || (s.shape.narrow() && taps > 0), "a joined square without a tap");
    const int last_step = *std::ranges::max_element(s.step_b);
    const int end = (base.b + (run_slots - 1) * base.apart + last_step) * 16 + s.group_b + 16 * s.shape.width;
    holds(!s.shape.narrow() || end <= s.stage_bytes + s.beyond_bytes, "a missing tap beyond the shared memory");
    for (const GradientItem& item : s.items) {
      for (int place = 0; item.tap_set == tap_set && place < item.num_places; ++place) {
        const uint32_t* masks = &s.masks[size_t((item.first_place + place) * s.shape.squares())];
        for (int i = 0; i < taps; ++i) holds(masks[at + i] == masks[at], "joined squares with other k-steps");
      }
    }
  }
}

// Blocks that write dW themselves: a cluster has all tap sets of one square of dW, each as many times as a sum has
// parts, and room in shared memory for what it does with them.
void check_direct(const Problem& p, const GradientMachine& m, const GradientSchedule& s) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, s); };
  const int64_t k_squares = ceil_div(p.filter.K, kSquare), c_squares = ceil_div(p.filter.C, s.shape.width);
  const int sets = int(s.set_taps.size()), cluster = s.cluster();
  holds(s.tile_k == 1 && s.tile_c == 1 && cluster == sets * s.cluster_splits, "a cluster's tile");
  holds(cluster <= kMaxGradientCluster && m.clusters[size_t(cluster)] > 0, "a cluster that does not fit the GPU");
  holds(int64_t(s.items.size()) == cluster * k_squares * c_squares, "a square without a cluster");
  for (size_t i = 0; i < s.items.size(); ++i) {
    const GradientItem &item = s.items[i], &first = s.items[i - i % size_t(cluster)];
    const int rank = int(i) % cluster;
    holds(item.k == first.k && item.c == first.c, "a cluster of several squares");
    holds(item.tap_set == rank / s.cluster_splits && item.split == rank % s.cluster_splits, "the order of a cluster");
  }
  std::set<int> taps;
  size_t most = 0;
  for (const std::vector<int>& of_set : s.set_taps) {
    most = std::max(most, of_set.size());
    for (const int tap : of_set) holds(taps.insert(tap).second, "a tap in two tap sets");
    if (int64_t(of_set.size()) == p.filter.taps()) holds(std::ranges::is_sorted(of_set), "all taps, in another order");
  }
  for (int64_t tap = 0; tap < p.filter.taps(); ++tap)
    holds(s.sums[tap].splits == (taps.contains(int(tap)) ? s.cluster_splits : 0), "a tap that nobody writes");
  for (const int element_bytes : {2, 4}) {
    const GradientRowSpace r =
        gradient_row_space(s.shape.width, int(most), int(taps.size()), int(p.filter.taps()), s.cluster_splits,
                           element_bytes, m.shared_bytes - kGradientFixedBytes);
    holds(r.row_channels >= 8 && r.bytes <= m.shared_bytes - kGradientFixedBytes, "shared memory of the rows");
    holds(r.rows_at >= int(kSquare * s.shape.width * most) * r.staged_bytes, "rows among the sums");
    holds(r.tables_at >=
              r.rows_at + kGradientTeams * 4 * r.rows_at_once * r.row_channels * int(p.filter.taps()) * element_bytes,
          "tables among the rows");
  }
  shared_sums += s.cluster_splits > 1, narrow += s.shape.width < kSquare;
  ++direct_schedules;
}

void check(const Problem& p, const GradientOperands& o, const GradientMachine& m, const GradientSchedule& s) {
  const auto holds = [&](bool x, const char* what) { require(x, what, p, s); };
  const int64_t k_squares = ceil_div(p.filter.K, kSquare), c_squares = ceil_div(p.filter.C, s.shape.width);
  holds(s.stages >= 2 && s.stages <= kMaxGradientStages, "stages");
  holds(s.stages * s.stage_bytes + s.beyond_bytes <= s.floats_at(), "floats among the operands");
  holds(s.shared_bytes() + kGradientFixedBytes <= m.shared_bytes, "shared memory");
  holds(o.floats ? s.float_stages >= 2 && s.float_stages <= kMaxFloatStages && s.tile_k * s.tile_c == 1
                 : s.float_stages == 0,
        "stages of floats");
  holds(s.float_stages < kMaxFloatStages || s.stages >= kMaxFloatStages,
        "fewer stages than warps that convert in turn");
  holds(s.float_a_bytes() + s.max_parts * s.float_b_bytes() <= s.float_stage_bytes || !o.floats, "boxes of floats");
  holds(s.step_a.size() <= kMaxSteps && s.step_a.size() == s.step_b.size(), "k-steps");
  for (int a = 0; a < 4; ++a) holds(s.layout.box[a] <= 256 && s.x_box[a] <= 256, "a box beyond a tensor map's");
  const int a_rows = s.a_bytes() / 128, b_pixel = 2 * s.shape.width, b_rows = s.b_bytes() / b_pixel;
  const int b_begin = o.planes * s.tile_k * s.a_bytes();

  const auto& [step0, step1, step2, step3] = s.x_step;
  const Dims x_step = s.layout.images_inner ? Dims{step3, step2, step1} : Dims{step2, step1, step0};
  for (int axis = 0; axis < 3; ++axis) {
    holds(x_step[axis] == 1 || x_step[axis] == p.stride[axis], "a step of X's boxes that is no stride");
    whole_strides += x_step[axis] < p.stride[axis];
  }
  // [tap][output pixel] -> how often, for the first square; and how often each square of dW gets each part of a sum.
  const int64_t outputs = p.N * volume(p.output);
  std::vector<std::vector<int>> seen(size_t(p.filter.taps()), std::vector<int>(size_t(outputs)));
  std::map<int64_t, int> written;
  std::map<int32_t, int64_t> tap_of_sums;
  for (int64_t t = 0; t < p.filter.taps(); ++t) {
    if (s.sums[t].splits > 0) tap_of_sums[s.sums[t].first] = t;
    split_sums += s.sums[t].splits > 1;
  }
  check_joined(p, s);
  for (const GradientItem& item : s.items) {
    holds(item.boxes > 0, "an empty item");
    for (int at = 0; at < s.shape.squares(); ++at) {
      const GradientSlot& slot = s.slots[item.tap_set * s.shape.squares() + at];
      if (slot.k < 0 || item.k + slot.k >= k_squares || item.c + slot.c >= c_squares) continue;
      holds(tap_of_sums.contains(slot.partial), "a slot of no tap");
      const int64_t tap = tap_of_sums[slot.partial];
      const std::vector<int>& set_taps = s.set_taps[size_t(item.tap_set)];
      holds(slot.order < int(set_taps.size()) && set_taps[size_t(slot.order)] == tap, "the order of a set's taps");
      ++written[slot.partial + (item.split * k_squares + item.k + slot.k) * c_squares + item.c + slot.c];
      if (item.k + slot.k > 0 || item.c + slot.c > 0) continue;
      const Dims t{tap / p.filter.extent[2] / p.filter.extent[1], tap / p.filter.extent[2] % p.filter.extent[1],
                   tap % p.filter.extent[2]};
      int place = item.place, image = item.image;
      for (int box = 0; box < item.boxes; ++box) {
        const GradientPlace& at_place = s.places[item.first_place + place];
        const uint32_t mask = s.masks[(item.first_place + place) * s.shape.squares() + at];
        for (size_t step = 0; step < s.step_a.size(); ++step) {
          if (!(mask >> step & 1)) continue;
          for (int i = 0; i < kStepPixels; ++i) {
            const int64_t a = slot.a / 8 + s.step_a[step] / 8 + i / 8 * (s.group_a / 128) + i % 8;
            const int64_t b_byte = (slot.b + s.step_b[step]) * 16 + i / 8 * s.group_b + i % 8 * b_pixel - b_begin;
            const int64_t b = b_byte / b_pixel;
            Pixel dy, x;
            holds(decode(s.layout, s.layout.box, a - slot.k * a_rows, dy), "a k-step beyond dY's box");
            holds(b_byte >= 0 && b_byte % b_pixel == 0, "a k-step before X's boxes");
            const int part = int(b / b_rows) / s.tile_c;
            holds(part < s.num_parts[item.tap_set] && int(b / b_rows) % s.tile_c == slot.c, "another box of X");
            holds(decode(s.layout, s.x_box, b % b_rows, x), "a k-step beyond X's box");
            const GradientPlace& from = s.parts[item.tap_set * s.max_parts + part];
            const Dims first{at_place.d, at_place.h, at_place.w}, base{from.d, from.h, from.w};
            dy.n += image, x.n += image;
            bool exists = dy.n < p.N, real = true;
            int64_t index = dy.n;
            for (int axis = 0; axis < 3; ++axis) {
              x.at[axis] = first[axis] * p.stride[axis] + base[axis] + x.at[axis] * x_step[axis];
              dy.at[axis] += first[axis];
              exists = exists && dy.at[axis] < p.output[axis];
              real = real && x.at[axis] >= 0 && x.at[axis] < p.input[axis];
              index = index * p.output[axis] + dy.at[axis];
            }
            if (!exists || !real) continue;  // zeros
            holds(x.n == dy.n, "another image");
            for (int axis = 0; axis < 3; ++axis)
              holds(x.at[axis] == dy.at[axis] * p.stride[axis] - p.pad[axis] + t[axis] * p.dilation[axis],
                    "another pixel of X");
            ++seen[tap][index];
          }
        }
        if (++place == item.num_places) {
          place = 0;
          image += s.layout.box[s.layout.images_inner ? 0 : 3];
        }
      }
    }
  }
  for (int64_t tap = 0; tap < p.filter.taps(); ++tap) {
    const Dims t{tap / p.filter.extent[2] / p.filter.extent[1], tap / p.filter.extent[2] % p.filter.extent[1],
                 tap % p.filter.extent[2]};
    for (int64_t i = 0; i < outputs; ++i) {
      int64_t rest = i;
      bool live = true;
      for (int axis = 2; axis >= 0; --axis) {
        const int64_t x = rest % p.output[axis] * p.stride[axis] - p.pad[axis] + t[axis] * p.dilation[axis];
        live = live && x >= 0 && x < p.input[axis];
        rest /= p.output[axis];
      }
      holds(seen[tap][i] == live, live ? "a live pixel is missing, or there twice" : "a dead pixel is multiplied");
      pairs += live;
    }
    for (int64_t i = 0; i < s.sums[tap].splits * k_squares * c_squares; ++i)
      holds(written[s.sums[tap].first + i] == 1, "a partial square is missing, or written twice");
  }
  holds(int64_t(written.size()) <= s.partial_squares, "partial squares");
  if (s.direct) check_direct(p, m, s);
  ++schedules;
}

}  // namespace

int main() {
  std::mt19937 random(5);
  const auto pick = [&](int low, int high) { return int64_t(low + random() % (high - low + 1)); };
  const GradientMachine whole, small{.multiprocessors = 8, .clusters = {0, 8, 4, 2, 2, 1, 1, 0, 0}};
  for (int round = 0; round < 200; ++round) {
    Attributes a;
    const int rank = int(pick(1, 3));
    std::vector<int64_t> x{round % 4 ? pick(1, 5) : pick(6, 40)}, w{8 * pick(1, 40), 8 * pick(1, 40)}, end;
    for (int i = 0; i < rank; ++i) {
      w.push_back(pick(1, 5)), a.strides.push_back(pick(1, 3)), a.dilations.push_back(round % 3 ? 1 : pick(1, 7));
      const int64_t reach = (w.back() - 1) * a.dilations.back() + 1;
      const int64_t before = pick(0, int(reach) - 1), after = pick(0, int(reach) - 1);
      x.push_back(std::max<int64_t>(1, reach - before - after) + pick(0, rank == 1 ? 60 : rank == 2 ? 14 : 5));
      a.pads.push_back(before), end.push_back(after);
    }
    a.pads.insert(a.pads.end(), end.begin(), end.end());
    const Filter filter = make_filter(a, w);
    x.push_back(filter.C);
    const Problem p = make_problem(a, filter, x, Layout::kNHWC);
    const GradientMachine& machine = round % 2 ? whole : small;
    for (const GradientOperands& o : {GradientOperands{1}, {2}, {1, true}, {2, true}}) {
      require(can_implement_gradient(p), "refused", p, {});
      const GradientSchedule chosen =
          o.floats ? choose_gradient_of_floats(p, o.planes, machine) : choose_gradient_schedule(p, o, machine);
      if (!chosen.items.empty()) check(p, {o.planes, chosen.float_stages > 0}, machine, chosen);
      const auto layouts = gradient_layouts(p);
      for (size_t i = size_t(round) % 7; i < layouts.size(); i += 7) {
        const GradientSchedule s = make_gradient_schedule(p, o, machine, layouts[i]);
        if (s.stages > 0) check(p, o, machine, s);
      }
    }
  }
  std::printf(
      "%ld schedules, %ld live pairs, %ld split sums, %ld joined teams, %ld direct schedules, %ld with parts, %ld "
      "narrow, %ld of whole strides\n",
      long(schedules), long(pairs), long(split_sums), long(joined_teams), long(direct_schedules), long(shared_sums),
      long(narrow), long(whole_strides));
  return split_sums > 0 && joined_teams > 0 && direct_schedules > shared_sums && shared_sums > 0 && narrow > 0 &&
                 whole_strides > 0
             ? 0
             : 1;
}

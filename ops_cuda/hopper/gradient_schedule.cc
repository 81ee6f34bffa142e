#include "ops_cuda/hopper/gradient_schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "ops_cuda/hopper/gradient_tables.h"
#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {

using namespace gradient;

namespace {

constexpr int kMaxPromotedPixels = 64;  // of a box whose sum is promoted

struct Search {
  double within = 1;  // candidates that are no more than so many times slower than the best one are kept
  std::vector<Candidate> candidates;
  double best = std::numeric_limits<double>::infinity();  // of their estimates
  bool too_slow(double cycles) const { return cycles > within * best; }
};

// How much further than a stage the runs of a tap set reach where taps are missing.
int beyond_stage(const Frame& f, const Covering& covering, const TapSet& set, const GradientShape& shape,
                 const Axes& box, int b_bytes) {
  const Axes pitch = step_pitches(f, covering);
  int64_t last_step = 0;
  for_steps(box, [&](const Axes& at) {
    int64_t first = 0;
    for (int a = 0; a < 4; ++a) first += int64_t(at[a]) * pitch[a];
    last_step = std::max(last_step, first);
  });
  last_step += box[0] % kStepPixels == 0 ? kStepPixels : pitch[1] + kStepPixels / 2;
  int64_t end = 0;
  for (const Group& g : set.groups) {
    for (size_t first = 0; first < g.taps.size(); first += size_t(shape.join)) {
      const int t = g.taps[first], next = g.taps[first + 1];
      const int64_t offset = pixel_offset(covering, t),
                    apart = next == kMissing ? 0 : pixel_offset(covering, next) - offset;
      const int64_t part = std::ranges::find(set.parts, covering.part_of[t]) - set.parts.begin();
      end = std::max(
          end, part * b_bytes + (offset + (shape.join - 1) * apart + last_step) * int64_t(pixel_bytes(shape.width)));
    }
  }
  return int(std::max<int64_t>(0, end - int64_t(set.parts.size()) * b_bytes));
}

// `slots`: squares of a team, where they are not narrow. With fewer than it has room for, more blocks share the taps,
// so that the pixels need less splitting.
void consider(const Problem& p, const GradientOperands& o, const GradientMachine& m, const Frame& f, const Axes& box,
              const std::array<bool, 4>& margins, const GradientShape& shape, int slots, Search& search) {
  const bool joined = shape.join > 1;
  if (shape.narrow() && int(f.taps.size()) > shape.squares()) return;
  if (o.planes == 2 && pixels_of(box) > kMaxPromotedPixels) return;
  // Taps that are joined do the same k-steps, dead or not, along the axes where they differ: mostly w alone.
  std::array<bool, 4> exact;
  for (int a = 0; a < 4; ++a) exact[a] = !joined || f.logical[a] != 2;
  const auto group = [&](const Covering& c) {
    return shape.narrow() ? make_narrow_groups(c, shape) : make_groups(c, slots, joined);
  };
  Covering covering = cover(f, box, margins, exact);
  std::vector<Group> groups = group(covering);
  if (groups.empty()) return;
  if (joined && !are_rows(f, covering, shape, groups)) {
    exact.fill(false);
    covering = cover(f, box, margins, exact);
    groups = group(covering);
    if (groups.empty()) return;
  }
  const int64_t x_bytes = aligned_box_bytes(covering.x_box, shape.width);
  if (!fits_tensor_map(covering.x_box, covering.x_step) || x_bytes > m.shared_bytes) return;
  const int k_squares = int(ceil_div(p.filter.K, kSquare)), c_squares = int(ceil_div(p.filter.C, shape.width));
  std::vector<double> steps;
  for (const FrameTap& t : covering.taps) steps.push_back(k_steps(t, box));
  // No tile takes fewer cycles than the products alone.
  double least = 0;
  for (const double n : steps) least += n;
  least *= std::min(product_cycles(shape, true), product_cycles(shape, false)) * o.products() *
           double(k_squares * c_squares) / m.multiprocessors;
  if (search.too_slow(least)) return;
  const int a_bytes = int(aligned_box_bytes(box, kSquare)), b_bytes = int(x_bytes);
  for (int tile_k = 1; tile_k <= (shape.narrow() ? 1 : std::min(kGradientTeams, k_squares)); ++tile_k) {
    for (int tile_c = 1; tile_c <= (shape.narrow() ? 1 : std::min(o.slots(), c_squares)); ++tile_c) {
      // The squares of one tap can always be joined.
      if ((joined || slots < o.slots()) && tile_c > 1) continue;
      if (o.floats && tile_k * tile_c > 1) continue;
      Candidate c{&f,
                  box,
                  margins,
                  exact,
                  shape,
                  tile_k,
                  tile_c,
                  covering.x_box,
                  make_tap_sets(covering, groups, slots, tile_k, tile_c)};
      for (const TapSet& set : c.sets) c.max_parts = std::max(c.max_parts, int(set.parts.size()));
      if (c.max_parts > kMostGradientParts) continue;
      c.stage_bytes = o.planes * (tile_k * a_bytes + c.max_parts * tile_c * b_bytes);
      if (shape.narrow()) c.beyond_bytes = beyond_stage(f, covering, c.sets[0], shape, box, b_bytes);
      int room = m.shared_bytes - kGradientFixedBytes - c.beyond_bytes;
      if (o.floats) {
        // Both rings have a box in each of two stages at least, better three.
        c.float_stage_bytes =
            int(float_box_bytes(box, kSquare) + c.max_parts * float_box_bytes(covering.x_box, shape.width));
        room -= kGradientScaleBytes + kStageAlignment;
        c.float_stages = room >= 3 * (c.float_stage_bytes + c.stage_bytes) ? 3 : 2;
        room -= c.float_stages * c.float_stage_bytes;
      }
      c.stages = std::min(kMaxGradientStages, room / c.stage_bytes);
      if (c.stages < (o.floats ? 2 : 3)) continue;
      c.tiles = ceil_div(k_squares, tile_k) * ceil_div(c_squares, tile_c);
      for (const TapSet& set : c.sets) {
        Axes begin = covering.taps[set.taps[0]].begin, end = covering.taps[set.taps[0]].end;
        double products = 0;
        for (const Group& g : set.groups) products += team_cycles(shape, g, [&](int tap) { return steps[tap]; });
        for (const int t : set.taps) {
          for (int a = 0; a < 4; ++a) {
            begin[a] = std::min(begin[a], covering.taps[t].begin[a]);
            end[a] = std::max(end[a], covering.taps[t].end[a]);
          }
        }
        double boxes = 1;
        for (int a = 0; a < 4; ++a) boxes *= double(pieces(begin[a], end[a], box[a]));
        products *= tile_k * tile_c * o.products() * idle_teams(set, tile_k);
        const double bytes = load_bytes(o, c, set.parts.size());
        c.set_cycles.push_back(boxes * box_cycles(o, c, products / boxes, bytes));
        c.set_boxes.push_back(int64_t(boxes));
        c.set_fill.push_back(fill_cycles(o, c, bytes));
      }
      // Nor can their boxes be dealt more evenly than evenly.
      const double even = std::accumulate(c.set_cycles.begin(), c.set_cycles.end(), 0.0) * double(c.tiles);
      if (search.too_slow(even / m.multiprocessors)) continue;
      c.estimate = choose_split(p, c, m, true).cycles;
      if (std::isinf(c.estimate)) continue;
      search.best = std::min(search.best, c.estimate);
      search.candidates.push_back(std::move(c));
    }
  }
}

// Those that the kernel has, beside squares 64 channels wide. Promoted sums leave few registers.
std::vector<GradientShape> narrow_shapes(const GradientOperands& o) {
  if (o.planes == 2) return {{32, 3, 1}};
  return {{32, 3, 1}, {32, 2, 2}, {16, 5, 2}, {16, 3, 3}};
}

void consider_box(const Problem& p, const GradientOperands& o, const GradientMachine& m, const Frame& f,
                  const Axes& box, Search& search) {
  std::array<bool, 4> all, none{}, row{};
  for (int a = 0; a < 4; ++a) all[a] = f.logical[a] != kImages, row[a] = f.logical[a] == 2;
  for (const auto& margins : {all, row, none}) {
    for (int slots = o.slots(); slots > 0; --slots)
      consider(p, o, m, f, box, margins, {kSquare, 1, o.slots()}, slots, search);
    consider(p, o, m, f, box, margins, {kSquare, o.slots(), 1}, o.slots(), search);
    for (const GradientShape& shape : narrow_shapes(o))
      consider(p, o, m, f, box, margins, shape, shape.slots(), search);
  }
}

std::optional<GradientSchedule> best_of(const Problem& p, const GradientOperands& o, const GradientMachine& m,
                                        Search& search) {
  constexpr size_t kFinalists = 4;
  std::vector<Candidate>& candidates = search.candidates;
  const size_t count = std::min(kFinalists, candidates.size());
  std::ranges::partial_sort(candidates, candidates.begin() + int64_t(count), {}, &Candidate::estimate);
  std::optional<GradientSchedule> best;
  for (size_t i = 0; i < count; ++i) {
    GradientSchedule s = make_tables(p, o, m, candidates[i]);
    if (!best || s.cycles < best->cycles) best = std::move(s);
  }
  return best;
}

// Looks at every box of the problem.
void consider_all(const Problem& p, const GradientOperands& o, const GradientMachine& m,
                  const std::array<Frame, 2>& frames, Search& search) {
  // Those with the fewest products first: most of the others need not be looked at in full.
  struct FramedBox {
    const Frame* frame;
    Axes box;
    double steps;
  };
  std::vector<FramedBox> boxes;
  for (const Frame& f : frames) {
    for (const Axes& box : boxes_of(f)) {
      double steps = 0;
      for (const FrameTap& t : f.taps) steps += k_steps(t, box);
      boxes.push_back({&f, box, steps});
    }
  }
  std::ranges::stable_sort(boxes, {}, &FramedBox::steps);
  for (const FramedBox& b : boxes) consider_box(p, o, m, *b.frame, b.box, search);
}

std::array<Frame, 2> frames_of(const Problem& p) {
  const std::vector<GradientTap> taps = weight_gradient_taps(p);
  return {make_frame(p, taps, false), make_frame(p, taps, true)};
}

}  // namespace

int GradientSchedule::a_bytes() const { return int(aligned_box_bytes(layout.box, kSquare)); }
int GradientSchedule::float_a_bytes() const { return int(float_box_bytes(layout.box, kSquare)); }
int GradientSchedule::float_b_bytes() const { return int(float_box_bytes(x_box, shape.width)); }
int GradientSchedule::floats_at() const {
  return int(round_up(int64_t(stages) * stage_bytes + beyond_bytes, kStageAlignment));
}
int GradientSchedule::shared_bytes() const {
  return floats_at() + float_stages * float_stage_bytes + (float_stages > 0 ? kGradientScaleBytes : 0);
}
int GradientSchedule::b_bytes() const { return int(aligned_box_bytes(x_box, shape.width)); }

GradientRowSpace gradient_row_space(int width, int most_taps_of_set, int live_taps, int taps, int cluster_splits,
                                    int element_bytes, int shared_bytes) {
  constexpr int kMostRowsAtOnce = 4, kWarps = kGradientTeams * 4;
  GradientRowSpace r{};
  r.staged_bytes = cluster_splits > 1 ? int(sizeof(float)) : element_bytes;
  r.rows_at = kSquare * (width * most_taps_of_set * r.staged_bytes + 16);
  const int tables = live_taps * 32;
  const auto fits = [&](int rows_at_once, int channels) {
    r.rows_at_once = rows_at_once, r.row_channels = channels, r.row_bytes = channels * taps * element_bytes;
    r.tables_at = r.rows_at + kWarps * rows_at_once * r.row_bytes, r.bytes = r.tables_at + tables;
    return r.bytes <= shared_bytes;
  };
  for (int rows = kMostRowsAtOnce; rows >= 1; --rows)
    if (fits(rows, width)) return r;
  for (int channels = width / 2; channels >= 8; channels /= 2)
    if (fits(1, channels)) return r;
  return {};
}

bool can_implement_gradient(const Problem& p) {
  // A square does not span groups. A tensor map steps over a few elements at most. The sum of the parts has all taps
  // of a few channels in shared memory. Every box of pixels is planned for: there must not be too many.
  constexpr int64_t kMostPixels = int64_t(1) << 26;
  return p.filter.groups == 1 && p.N * volume(p.output) <= kMostPixels && p.filter.taps() <= kMaxGradientTaps &&
         std::ranges::all_of(p.stride, [](int64_t s) { return s <= kMaxElementStride; });
}

std::vector<BoxLayout> gradient_layouts(const Problem& p) {
  std::vector<BoxLayout> layouts;
  for (const bool images_inner : {false, true})
    for (const Axes& box : boxes_of(make_frame(p, {}, images_inner))) layouts.push_back({images_inner, box});
  return layouts;
}

GradientSchedule make_gradient_schedule(const Problem& p, const GradientOperands& o, const GradientMachine& m,
                                        const BoxLayout& layout) {
  const Frame f = make_frame(p, weight_gradient_taps(p), layout.images_inner);
  Search search;
  if (!f.taps.empty()) consider_box(p, o, m, f, layout.box, search);
  return best_of(p, o, m, search).value_or(GradientSchedule{});
}

GradientSchedule choose_gradient_schedule(const Problem& p, const GradientOperands& o, const GradientMachine& m) {
  const std::array<Frame, 2> frames = frames_of(p);
  if (frames[0].taps.empty()) {  // dW is zero
    GradientSchedule s{};
    s.sums.assign(size_t(p.filter.taps()), GradientSums{0, 0});
    return s;
  }
  Search search;
  consider_all(p, o, m, frames, search);
  std::optional<GradientSchedule> best = best_of(p, o, m, search);
  if (!best) throw Error("no box of the Hopper weight gradient fits the shared memory of this device");
  return *std::move(best);
}

GradientSchedule choose_gradient_of_floats(const Problem& p, int planes, const GradientMachine& m) {
  GradientSchedule before = choose_gradient_schedule(p, {planes}, m);
  if (before.items.empty()) return before;
  before.cycles += conversion_cycles(p, {planes});
  const std::array<Frame, 2> frames = frames_of(p);
  Search search;
  search.best = before.cycles;
  consider_all(p, {planes, true}, m, frames, search);
  std::optional<GradientSchedule> inside = best_of(p, {planes, true}, m, search);
  return inside && inside->cycles < before.cycles ? *std::move(inside) : before;
}

std::vector<GradientSchedule> likely_gradient_schedules(const Problem& p, const GradientOperands& o,
                                                        const GradientMachine& m, double within) {
  const std::array<Frame, 2> frames = frames_of(p);
  std::vector<GradientSchedule> schedules;
  const auto add = [&](const GradientOperands& operands, double before) {
    Search search;
    search.within = within;
    if (!frames[0].taps.empty()) consider_all(p, operands, m, frames, search);
    for (const Candidate& c : search.candidates) {
      if (search.too_slow(c.estimate)) continue;
      schedules.push_back(make_tables(p, operands, m, c));
      schedules.back().cycles += before;
    }
  };
  add({o.planes}, o.floats ? conversion_cycles(p, o) : 0);
  if (o.floats) add(o, 0);
  std::ranges::stable_sort(schedules, {}, &GradientSchedule::cycles);
  std::erase_if(schedules, [&, best = schedules.empty() ? 0 : schedules[0].cycles](const GradientSchedule& s) {
    return s.cycles > within * best;
  });
  return schedules;
}

}  // namespace cks::cuda::hopper

#include "ops_cuda/hopper/gradient_tables.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace cks::cuda::hopper::gradient {
namespace {

// The places of a tap set's boxes with the masks of its taps, and what each costs.
struct PlaceList {
  std::vector<Axes> places;  // along the image axis: 0
  std::vector<std::vector<uint32_t>> masks;
  std::vector<double> cycles;
};

PlaceList make_places(const Candidate& c, const Covering& covering, const TapSet& set, const GradientOperands& o) {
  const Frame& f = *c.frame;
  Axes count;
  for (int a = 0; a < 4; ++a) count[a] = f.logical[a] == kImages ? 1 : int32_t(ceil_div(f.out[a], c.box[a]));
  const double bytes = load_bytes(o, c, set.parts.size());
  PlaceList list;
  Axes i;
  for (i[3] = 0; i[3] < count[3]; ++i[3])
    for (i[2] = 0; i[2] < count[2]; ++i[2])
      for (i[1] = 0; i[1] < count[1]; ++i[1])
        for (i[0] = 0; i[0] < count[0]; ++i[0]) {
          Axes at;
          for (int a = 0; a < 4; ++a) at[a] = i[a] * c.box[a];
          std::vector<uint32_t> masks;
          double products = 0;
          for (const Group& g : set.groups) {
            size_t next = masks.size();
            for_runs(c.shape, g, [&](std::span<const int> run) {
              uint32_t any = 0;
              for (const int t : run)
                if (t != kMissing) any |= live_steps(covering.taps[t], c.box, at);
              for (const int t : run)
                if (t != kMissing) masks.push_back(any);
            });
            products += team_cycles(c.shape, g, [&](int) { return double(std::popcount(masks[next++])); });
          }
          if (products == 0) continue;
          list.places.push_back(at);
          list.masks.push_back(std::move(masks));
          list.cycles.push_back(
              box_cycles(o, c, products * idle_teams(set, c.tile_k) * c.tile_k * c.tile_c * o.products(), bytes));
        }
  return list;
}

GradientPlace place_of(const Frame& f, const Axes& at) {
  std::array<int32_t, 4> logical{};
  for (int a = 0; a < 4; ++a) logical[f.logical[a]] = at[a];
  return {logical[0], logical[1], logical[2], 0};
}

// Where k-steps begin, and where the taps of a tap set do: what the kernel adds up to addresses.
void place_steps(const Candidate& c, const Covering& covering, GradientSchedule& s) {
  const Axes pitch_a = pitches(c.box), pitch_b = step_pitches(*c.frame, covering);
  const int bytes_a = pixel_bytes(kSquare), bytes_b = pixel_bytes(c.shape.width);
  for_steps(c.box, [&](const Axes& at) {
    int32_t a = 0, b = 0;
    for (int i = 0; i < 4; ++i) a += at[i] * pitch_a[i], b += at[i] * pitch_b[i];
    s.step_a.push_back(a * bytes_a / 16), s.step_b.push_back(b * bytes_b / 16);
  });
  const bool one_row = c.box[0] % kStepPixels == 0;  // else a k-step's second 8 pixels are next along the second axis
  s.group_a = (one_row ? 8 : pitch_a[1]) * bytes_a, s.group_b = (one_row ? 8 : pitch_b[1]) * bytes_b;
}

// The squares of a tap set's blocks, and room for their partial sums. Returns which of the set's taps each has, or -1.
std::vector<int> place_squares(const Problem& p, const GradientOperands& o, const Candidate& c,
                               const Covering& covering, const TapSet& set, int splits, GradientSchedule& s) {
  std::vector<GradientSlot> slots(size_t(c.shape.squares()), GradientSlot{0, 0, -1, -1, 0, 0, 0, 0});
  std::vector<int> tap_of(slots.size(), -1);
  const int groups = int(set.groups.size());
  std::vector<int> filter_taps;
  for (const int t : set.taps) filter_taps.push_back(covering.taps[t].filter);
  if (int64_t(set.taps.size()) == p.filter.taps()) std::ranges::sort(filter_taps);
  int order = 0;
  for (int g = 0; g < groups; ++g) {
    const Group& group = set.groups[g];
    for (int j = 0; j < int(group.taps.size()); ++j) {
      const int t = group.taps[j];
      if (t == kMissing) continue;
      const int filter_tap = covering.taps[t].filter;
      const int part = int(std::ranges::find(set.parts, covering.part_of[t]) - set.parts.begin());
      for (int k = 0; k < c.tile_k; ++k) {
        for (int x = 0; x < c.tile_c; ++x) {
          const int at = (k * groups + g) * c.shape.slots() + j + x;
          GradientSlot& slot = slots[at];
          slot.k = k, slot.c = x, slot.partial = int32_t(s.partial_squares);
          slot.order = int32_t(std::ranges::find(filter_taps, filter_tap) - filter_taps.begin());
          slot.a = k * s.a_bytes() / 16;
          slot.b = o.planes * c.tile_k * s.a_bytes() / 16 + (part * c.tile_c + x) * s.b_bytes() / 16 +
                   pixel_offset(covering, t) * pixel_bytes(c.shape.width) / 16;
          tap_of[at] = order;
        }
      }
      s.sums[filter_tap] = {int32_t(s.partial_squares), splits};
      s.partial_squares += splits * ceil_div(p.filter.K, kSquare) * ceil_div(p.filter.C, c.shape.width);
      ++order;
    }
    for (int k = 0; k < c.tile_k && group.joined; ++k) {
      for (int run = 0; run < (c.shape.narrow() ? c.shape.runs : 1); ++run) {
        GradientSlot* const first = &slots[(k * groups + g) * c.shape.slots() + run * c.shape.join];
        if (first[1].k >= 0) first->apart = first[1].b - first[0].b;
      }
    }
  }
  s.slots.insert(s.slots.end(), slots.begin(), slots.end());
  s.num_parts.push_back(int(set.parts.size()));
  s.set_taps.push_back(std::move(filter_taps));
  for (int part = 0; part < c.max_parts; ++part) {
    const Axes base = part < int(set.parts.size()) ? covering.parts[set.parts[part]].base : Axes{};
    s.parts.push_back(place_of(*c.frame, base));
  }
  return tap_of;
}

// Where to cut a tap set's boxes, images slowest, into `splits` ranges that take equally long: the first box of each,
// and the end.
std::vector<int64_t> cut_boxes(const PlaceList& list, int64_t image_blocks, int splits) {
  const int64_t places = int64_t(list.places.size());
  std::vector<double> until(1, 0);  // each place, of one block of images
  for (const double cycles : list.cycles) until.push_back(until.back() + cycles);
  const double one = until.back();
  std::vector<int64_t> cuts(1, 0);
  for (int i = 1; i < splits; ++i) {
    const double cycles = one * double(image_blocks) * i / splits;
    const int64_t block = std::min(image_blocks - 1, int64_t(cycles / one));
    const double rest = cycles - double(block) * one;
    const int64_t place = std::ranges::lower_bound(until, rest - 1e-6 * one) - until.begin();
    // Every range wants a box.
    cuts.push_back(
        std::clamp(block * places + std::min(place, places), cuts.back() + 1, image_blocks * places - (splits - i)));
  }
  cuts.push_back(image_blocks * places);
  return cuts;
}

}  // namespace

GradientSchedule make_tables(const Problem& p, const GradientOperands& o, const GradientMachine& m, Candidate c) {
  const Frame& f = *c.frame;
  const Covering covering = cover(f, c.box, c.margins, c.exact);
  GradientSchedule s;
  s.layout = {f.images_inner, c.box};
  s.x_box = c.x_box, s.x_step = covering.x_step, s.tile_k = c.tile_k, s.tile_c = c.tile_c, s.shape = c.shape;
  s.max_parts = c.max_parts, s.stages = c.stages, s.stage_bytes = c.stage_bytes, s.beyond_bytes = c.beyond_bytes;
  s.float_stages = c.float_stages, s.float_stage_bytes = c.float_stage_bytes;
  place_steps(c, covering, s);

  std::vector<PlaceList> lists;
  const int images_axis = f.images_inner ? 0 : 3;
  const int64_t image_blocks = ceil_div(p.N, c.box[images_axis]);
  for (size_t i = 0; i < c.sets.size(); ++i) {
    lists.push_back(make_places(c, covering, c.sets[i], o));
    c.set_boxes[i] = int64_t(lists[i].places.size()) * image_blocks;
  }
  const Split split = choose_split(p, c, m, false);
  s.cycles = split.cycles;
  s.direct = split.direct;
  if (s.direct) s.cluster_splits = split.splits[0];

  s.sums.assign(size_t(p.filter.taps()), GradientSums{0, 0});
  struct Timed {
    double cycles;
    GradientItem item;
  };
  std::vector<Timed> timed;
  for (size_t i = 0; i < c.sets.size(); ++i) {
    const PlaceList& list = lists[i];
    const int splits = split.splits[i], places = int(list.places.size());
    const std::vector<int> tap_of = place_squares(p, o, c, covering, c.sets[i], splits, s);
    const std::vector<int64_t> cuts = cut_boxes(list, image_blocks, splits);
    const double cycles = std::accumulate(list.cycles.begin(), list.cycles.end(), 0.0) / splits;
    for (int part = 0; part < splits; ++part) {
      GradientItem item{};
      item.tap_set = int(i), item.first_place = int(s.places.size()), item.num_places = places;
      item.place = int32_t(cuts[part] % places), item.image = int32_t(cuts[part] / places * c.box[images_axis]);
      item.boxes = int32_t(cuts[part + 1] - cuts[part]), item.split = part;
      for (item.k = 0; item.k < ceil_div(p.filter.K, kSquare); item.k += c.tile_k)
        for (item.c = 0; item.c < ceil_div(p.filter.C, c.shape.width); item.c += c.tile_c)
          timed.push_back({cycles, item});
    }
    for (int place = 0; place < places; ++place) {
      s.places.push_back(place_of(f, list.places[place]));
      for (const int tap : tap_of) s.masks.push_back(tap < 0 ? 0 : list.masks[place][tap]);
    }
  }
  if (s.direct) {
    std::ranges::stable_sort(timed, {}, [](const Timed& t) { return std::pair(t.item.k, t.item.c); });
  } else {
    std::ranges::stable_sort(timed, std::greater<>{}, &Timed::cycles);
  }
  for (const Timed& t : timed) s.items.push_back(t.item);
  return s;
}

}  // namespace cks::cuda::hopper::gradient

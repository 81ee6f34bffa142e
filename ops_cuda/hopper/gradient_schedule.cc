#include "ops_cuda/hopper/gradient_schedule.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <queue>

#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda::hopper {
namespace {

constexpr int kPixelBytes = 2 * kSquare;
constexpr int kImages = 3;                        // the logical axes: 0, 1, 2 are d, h, w
constexpr int kMaxPixels = 256, kFewPixels = 32;  // of a box: no more, and no fewer where there are more
constexpr int kMaxPromotedPixels = 64;            // where its sum is promoted

// What one thing costs a block, in cycles (of 1.7 GHz): fitted to layouts timed on an H200 (docs/notebook.md).
constexpr double kProduct = 48;                     // a product of 64 x 64 x 16, by itself,
constexpr double kJoinedProduct = 33;               // and beside others;
constexpr double kNarrowProduct = 34;               // of 64 x 32 x 16
constexpr double kLoadRate = 38;                    // bytes, all SMs at work on the same pixels
constexpr double kOwnLoadRate = 26;                 // likewise, each on its own
constexpr double kLoadShare = 0.2;                  // of a load, while products run
constexpr double kAloneRate = 60;                   // bytes, what one SM can have
constexpr double kLatency = 1000;                   // of a load
constexpr double kDrain = 150;                      // of products, until their sums can be read
constexpr double kBoxOverhead = 1000;               // tables are read and barriers passed meanwhile
constexpr double kTwoTeams = 1.08, kOneTeam = 1.6;  // times as long: products where a team or two have none
constexpr double kStart = 2000;                     // until the first box is there, and the end
constexpr double kWriteRate = 50;                   // bytes of partial squares, written,
constexpr double kReadRate = 30;                    // and read by the kernel that adds them
constexpr double kSumStart = 5000;                  // that kernel
constexpr double kSumWriteRate = 10;                // bytes of dW (two each), written by it
constexpr double kMeet = 1500;                      // of a cluster, before and after it reads others' sums
constexpr double kGather = 4000;                    // where rows of dW are not a block's own as they lie there
constexpr double kStageRate = 50;                   // bytes of sums: left in shared memory,
constexpr double kPeerRate = 15;                    // read from another block's,
constexpr double kRowRate = 15;                     // and written as rows of dW, two bytes each

// A live tap; axes in the order of the layout.
struct FrameTap {
  int32_t filter;
  Axes offset, begin, end;
};

// The problem with its axes in the order of shared memory.
struct Frame {
  bool images_inner;
  std::array<int, 4> logical;
  Axes out, in, stride;
  std::vector<FrameTap> taps;
};

Frame make_frame(const Problem& p, const std::vector<GradientTap>& taps, bool images_inner) {
  Frame f;
  f.images_inner = images_inner;
  f.logical = images_inner ? std::array{kImages, 2, 1, 0} : std::array{2, 1, 0, kImages};
  for (int a = 0; a < 4; ++a) {
    const int axis = f.logical[a];
    f.out[a] = int32_t(axis == kImages ? p.N : p.output[axis]);
    f.in[a] = int32_t(axis == kImages ? p.N : p.input[axis]);
    f.stride[a] = int32_t(axis == kImages ? 1 : p.stride[axis]);
  }
  for (const GradientTap& g : taps) {
    FrameTap t{g.tap.filter, {}, {}, {}};
    bool live = p.N > 0;
    for (int a = 0; a < 4; ++a) {
      const int axis = f.logical[a];
      t.offset[a] = axis == kImages ? 0 : g.tap.offset[axis];
      t.begin[a] = axis == kImages ? 0 : g.live.begin[axis];
      t.end[a] = axis == kImages ? int32_t(p.N) : g.live.end[axis];
      live = live && t.begin[a] < t.end[a];
    }
    if (live) f.taps.push_back(t);
  }
  return f;
}

// How many pixels along each axis one k-step has.
Axes step_of(const Axes& box) { return box[0] % kStepPixels == 0 ? Axes{16, 1, 1, 1} : Axes{8, 2, 1, 1}; }

// Pieces of `size` that a range meets.
int64_t pieces(int32_t begin, int32_t end, int32_t size) { return (end - 1) / size - begin / size + 1; }

int64_t pixels_of(const Axes& box) { return int64_t(box[0]) * box[1] * box[2] * box[3]; }

// Taps that read one box of X: congruent modulo the stride, and no farther apart than the margin.
struct Part {
  Axes base, last;  // the least and the greatest offset
};

// The squares of one team: one 64 output channels, up to `slots` operands in X.
struct Group {
  std::vector<int> taps;  // of Covering::taps; with several input channels in the tile, one
  bool joined;            // as many operands as fit, equally far apart
};

struct TapSet {
  std::vector<Group> groups;
  std::vector<int> taps;   // of all groups
  std::vector<int> parts;  // of Covering::parts
};

// Taps sorted by the box of X they read.
struct Covering {
  std::vector<FrameTap> taps;
  std::vector<int> part_of;  // each tap's
  std::vector<Part> parts;
  Axes x_box;
};

// `margins`: along which axes the taps of a part may differ. `exact`: no k-step is multiplied for a tap that it is dead
// for.
Covering cover(const Frame& f, const Axes& box, const std::array<bool, 4>& margins, bool exact) {
  std::map<Axes, std::vector<int>> classes;
  for (int t = 0; t < int(f.taps.size()); ++t) {
    Axes key;
    for (int a = 0; a < 4; ++a) {
      const int32_t o = f.taps[t].offset[a], s = f.stride[a];
      key[a] = margins[a] ? (o % s + s) % s : o;
    }
    classes[key].push_back(t);
  }
  const Axes step = step_of(box);
  Covering c;
  c.x_box = {1, 1, 1, 1};
  for (const auto& [key, members] : classes) {
    Part part{f.taps[members[0]].offset, f.taps[members[0]].offset};
    for (const int t : members) {
      for (int a = 0; a < 4; ++a) {
        part.base[a] = std::min(part.base[a], f.taps[t].offset[a]);
        part.last[a] = std::max(part.last[a], f.taps[t].offset[a]);
      }
    }
    for (int a = 0; a < 4; ++a) {
      int32_t end = (box[a] - 1) * f.stride[a] + part.last[a];
      // Where one box has the whole axis and k-steps are single places along it, nothing outside the input is read.
      if (exact && step[a] == 1 && box[a] >= f.out[a]) {
        while (part.base[a] < 0) part.base[a] += f.stride[a];
        end = std::min(end, f.in[a] - 1);
      }
      c.x_box[a] = std::max(c.x_box[a], (end - part.base[a]) / f.stride[a] + 1);
    }
    for (const int t : members) c.taps.push_back(f.taps[t]), c.part_of.push_back(int(c.parts.size()));
    c.parts.push_back(part);
  }
  return c;
}

bool fits_tensor_map(const Frame& f, const Axes& x_box) {
  for (int a = 0; a < 4; ++a)
    if (x_box[a] * f.stride[a] > kMaxTensorBox) return false;
  return true;
}

int64_t aligned_box_bytes(const Axes& box) { return round_up(pixels_of(box) * kPixelBytes, 1024); }

// A way to do the whole problem, and what it costs.
struct Candidate {
  const Frame* frame;
  Axes box;
  std::array<bool, 4> margins;
  bool joined;  // taps in one wgmma, also where some of them are dead
  int width, tile_k, tile_c;
  Axes x_box;
  std::vector<TapSet> sets;
  std::vector<double> set_cycles;  // of one tile, all boxes
  std::vector<int64_t> set_boxes;
  int max_parts, stages, stage_bytes;
  int64_t tiles;
  double estimate;
};

// Where k-steps lie in a box of which each axis has `pitch` pixels between neighbours.
Axes pitches(const Axes& box) { return {1, box[0], box[0] * box[1], box[0] * box[1] * box[2]}; }

// A tap's place in its box of X, in pixels.
int32_t pixel_offset(const Frame& f, const Covering& c, int tap) {
  const Axes pitch = pitches(c.x_box);
  int32_t offset = 0;
  for (int a = 0; a < 4; ++a)
    offset += (c.taps[tap].offset[a] - c.parts[c.part_of[tap]].base[a]) / f.stride[a] * pitch[a];
  return offset;
}

// Groups of taps equally far apart, as many as `slots` each: rows of taps, then columns, then what is left.
std::vector<Group> make_groups(const Frame& f, const Covering& c, int slots, bool joined) {
  const int taps = int(c.taps.size());
  std::vector<int32_t> offset(taps);
  for (int t = 0; t < taps; ++t) offset[t] = pixel_offset(f, c, t);
  std::vector<bool> taken(taps);
  std::vector<Group> groups;
  std::vector<int> single;
  const auto unused = [&](int part, int32_t at) {
    for (int t = 0; t < taps; ++t)
      if (!taken[t] && c.part_of[t] == part && offset[t] == at) return t;
    return -1;
  };
  for (int count = slots; count >= 2; --count) {
    for (int t = 0; t < taps; ++t) {
      int32_t apart = std::numeric_limits<int32_t>::max();
      for (int u = 0; u < taps && !taken[t]; ++u) {
        const int32_t d = offset[u] - offset[t];
        if (taken[u] || c.part_of[u] != c.part_of[t] || d <= 0 || d >= apart) continue;
        bool all = true;
        for (int i = 2; i < count; ++i) all = all && unused(c.part_of[t], offset[t] + i * d) >= 0;
        if (all) apart = d;
      }
      if (apart == std::numeric_limits<int32_t>::max()) continue;
      Group g{{}, joined && count == slots};
      for (int i = 0; i < count; ++i) {
        g.taps.push_back(unused(c.part_of[t], offset[t] + i * apart));
        taken[g.taps.back()] = true;
      }
      groups.push_back(std::move(g));
    }
  }
  for (int t = 0; t < taps; ++t)
    if (!taken[t]) single.push_back(t);
  // As few groups as can be: the last ones fill those with a slot to spare.
  for (size_t i = 0; i < groups.size(); ++i) {
    while (int(groups[i].taps.size()) < slots && (!single.empty() || i + 1 < groups.size())) {
      if (single.empty()) {
        single = groups.back().taps;
        groups.pop_back();
      }
      groups[i].taps.push_back(single.back());
      single.pop_back();
    }
  }
  for (size_t i = 0; i < single.size(); i += size_t(slots))
    groups.push_back(
        {{single.begin() + int64_t(i), single.begin() + int64_t(std::min(single.size(), i + size_t(slots)))}, false});
  return groups;
}

// The groups of a tile, `apart` those of a tile one square wide, dealt to tap sets.
std::vector<TapSet> make_tap_sets(const Covering& c, const std::vector<Group>& apart, int slots, int tile_k,
                                  int tile_c) {
  std::vector<Group> groups = apart;
  if (tile_c > 1) {
    groups.clear();
    for (int t = 0; t < int(c.taps.size()); ++t) groups.push_back({{t}, tile_c == slots});
  }
  const int at_once = kGradientTeams / tile_k, sets = int(ceil_div(int64_t(groups.size()), at_once));
  std::vector<TapSet> result;
  for (int i = 0; i < sets; ++i) {
    TapSet set;
    const int64_t count = int64_t(groups.size());
    for (int64_t g = count * i / sets; g < count * (i + 1) / sets; ++g) {
      for (const int t : groups[g].taps) {
        set.taps.push_back(t);
        if (std::ranges::find(set.parts, c.part_of[t]) == set.parts.end()) set.parts.push_back(c.part_of[t]);
      }
      set.groups.push_back(groups[g]);
    }
    result.push_back(std::move(set));
  }
  return result;
}

// `products`: the cycles of its products.
double box_cycles(const GradientOperands& o, double products, double bytes, int stages, bool shared) {
  // With few stages a box waits for the one that had its stage.
  const double ring = (bytes / kAloneRate + kLatency) / (stages - 1);
  // Before sums are promoted a team's products must end, and nobody else's may fill all of the gap.
  const double drain = o.planes == 2 ? kDrain : 0;
  const double load = bytes / (shared ? kLoadRate : kOwnLoadRate);
  return std::max({products + kLoadShare * load + drain, load, ring, kBoxOverhead});
}

// What a block does beside its boxes.
double item_end(const Candidate& c, int taps) {
  return kStart + double(c.tile_k) * c.tile_c * taps * kSquare * kSquare * sizeof(float) / kWriteRate;
}

// How the boxes of each tap set are split among blocks.
struct Split {
  std::vector<int> splits;  // of each tap set
  bool direct = false;
  double cycles = std::numeric_limits<double>::infinity();
};

// Whether blocks can write dW themselves: as clusters with so many parts of every sum.
bool can_be_direct(const Problem& p, const Candidate& c, const GradientMachine& m, int splits) {
  const int64_t blocks = int64_t(c.sets.size()) * splits;
  if (c.tile_k > 1 || c.tile_c > 1 || blocks > kMaxGradientCluster || m.clusters[size_t(blocks)] == 0) return false;
  size_t live = 0, most = 0;
  for (const TapSet& set : c.sets) {
    live += set.taps.size(), most = std::max(most, set.taps.size());
    // Joined products have only been right in blocks of their own (docs/notebook.md).
    if (blocks > 1 && std::ranges::any_of(set.groups, &Group::joined)) return false;
  }
  for (const int64_t boxes : c.set_boxes)
    if (boxes < splits) return false;
  // As if dW were of floats, whatever it is.
  return gradient_row_space(c.width, int(most), int(live), int(p.filter.taps()), splits, sizeof(float),
                            m.shared_bytes - kGradientFixedBytes)
             .row_channels > 0;
}

// Until a cluster has summed up and written its square of dW, beside the products.
double rows_end(const Problem& p, const Candidate& c, int splits) {
  size_t most = 0;
  for (const TapSet& set : c.sets) most = std::max(most, set.taps.size());
  const double elements = double(most) * kSquare * c.width, blocks = double(c.sets.size()) * splits;
  const double bytes = elements * (splits > 1 ? 4 : 2);
  const bool whole = int64_t(most) == p.filter.taps();
  return kStart + (blocks > 1 ? kMeet : 0) + (whole ? 0 : kGather) + bytes / kStageRate +
         bytes * (blocks - 1) / blocks / kPeerRate +
         double(p.filter.taps()) * kSquare * c.width * 2 / blocks / kRowRate;
}

struct Items {
  double cycles;
  int64_t count;
};

// Until the last of the items is done, dealt longest first to the block that is free first.
double deal(std::vector<Items> items, int blocks) {
  std::ranges::sort(items, std::greater<>{}, &Items::cycles);
  std::priority_queue<double, std::vector<double>, std::greater<>> loads;
  double last = 0;
  for (const Items& i : items) {
    for (int64_t n = 0; n < i.count; ++n) {
      double load = 0;
      if (int(loads.size()) == blocks) load = loads.top(), loads.pop();
      loads.push(load + i.cycles);
      last = std::max(last, load + i.cycles);
    }
  }
  return last;
}

// The same, roughly, without dealing them.
double deal_roughly(const std::vector<Items>& items, int blocks) {
  double all = 0, longest = 0, count = 0;
  for (const Items& i : items) {
    all += i.cycles * double(i.count), count += double(i.count);
    longest = std::max(longest, i.cycles);
  }
  return std::max(longest, std::ceil(count / blocks) * all / count);
}

Split choose_split(const Problem& p, const Candidate& c, const GradientMachine& m, bool roughly) {
  const double all = std::accumulate(c.set_cycles.begin(), c.set_cycles.end(), 0.0);
  Split best;
  for (int n = 1; can_be_direct(p, c, m, n); ++n) {
    const double waves = std::ceil(double(c.tiles) / m.clusters[c.sets.size() * size_t(n)]);
    const double cycles = waves * (std::ranges::max(c.set_cycles) / n + rows_end(p, c, n));
    if (cycles < best.cycles) best = {std::vector<int>(c.sets.size(), n), true, cycles};
  }
  for (int waves = 1; waves <= (c.width == kSquare ? 4 : 0); ++waves) {
    // The tap sets share the blocks of `waves` waves by their length, rounded down.
    Split s;
    const double shares = double(waves) * m.multiprocessors / double(c.tiles);
    std::vector<Items> items;
    double squares = 0;
    for (size_t i = 0; i < c.sets.size(); ++i) {
      const int64_t n = std::clamp<int64_t>(int64_t(shares * c.set_cycles[i] / all), 1, c.set_boxes[i]);
      const int taps = int(c.sets[i].taps.size());
      s.splits.push_back(int(n));
      items.push_back({c.set_cycles[i] / double(n) + item_end(c, taps), n * c.tiles});
      squares += double(n * c.tiles) * taps * c.tile_k * c.tile_c;
    }
    s.cycles = (roughly ? deal_roughly(items, m.multiprocessors) : deal(items, m.multiprocessors)) + kSumStart +
               squares * kSquare * kSquare * sizeof(float) / kReadRate / m.multiprocessors +
               double(p.filter.elements()) * 2 / kSumWriteRate / m.multiprocessors;
    if (s.cycles < best.cycles) best = std::move(s);
  }
  return best;
}

// How much longer products take where teams have none.
double idle_teams(const TapSet& set, int tile_k) {
  const size_t busy = set.groups.size() * size_t(tile_k);
  return busy == 1 ? kOneTeam : busy == 2 ? kTwoTeams : 1;
}

struct Search {
  std::vector<Candidate> candidates;
  double best = std::numeric_limits<double>::infinity();  // of their estimates
};

// How many k-steps of all boxes have a pixel that is live for the tap.
double k_steps(const FrameTap& t, const Axes& box) {
  const Axes step = step_of(box);
  double all = 1;
  for (int a = 0; a < 4; ++a) all *= double(pieces(t.begin[a], t.end[a], step[a]));
  return all;
}

// `slots`: squares of a team. With fewer than it has room for, more blocks share the taps, so that the pixels need less
// splitting.
void consider(const Problem& p, const GradientOperands& o, const GradientMachine& m, const Frame& f, const Axes& box,
              const std::array<bool, 4>& margins, int slots, bool joined, int width, Search& search) {
  if (o.planes == 2 && pixels_of(box) > kMaxPromotedPixels) return;
  const Covering covering = cover(f, box, margins, !joined);
  if (!fits_tensor_map(f, covering.x_box) || aligned_box_bytes(covering.x_box) > m.shared_bytes) return;
  const int k_squares = int(ceil_div(p.filter.K, kSquare)), c_squares = int(ceil_div(p.filter.C, width));
  const double product = width == kSquare ? kProduct : kNarrowProduct;
  std::vector<double> steps;
  for (const FrameTap& t : covering.taps) steps.push_back(k_steps(t, box));
  // No tile takes fewer cycles than the products alone.
  double least = 0;
  for (const double n : steps) least += n;
  least *= std::min(kJoinedProduct, product) * o.products() * double(k_squares * c_squares) / m.multiprocessors;
  if (search.best < least) return;
  const int a_bytes = int(aligned_box_bytes(box)), b_bytes = int(aligned_box_bytes(covering.x_box));
  const std::vector<Group> groups = make_groups(f, covering, slots, joined);
  for (int tile_k = 1; tile_k <= std::min(kGradientTeams, k_squares); ++tile_k) {
    for (int tile_c = 1; tile_c <= std::min(o.slots(), c_squares); ++tile_c) {
      // The squares of one tap can always be joined.
      if ((joined || slots < o.slots()) && tile_c > 1) continue;
      if (width < kSquare && tile_k * tile_c > 1) continue;
      Candidate c{&f,
                  box,
                  margins,
                  joined,
                  width,
                  tile_k,
                  tile_c,
                  covering.x_box,
                  make_tap_sets(covering, groups, slots, tile_k, tile_c),
                  {},
                  {},
                  0,
                  0,
                  0,
                  0,
                  0};
      for (const TapSet& set : c.sets) c.max_parts = std::max(c.max_parts, int(set.parts.size()));
      c.stage_bytes = o.planes * (tile_k * a_bytes + c.max_parts * tile_c * b_bytes);
      c.stages = std::min(kMaxGradientStages, (m.shared_bytes - kGradientFixedBytes) / c.stage_bytes);
      if (c.stages < 3) continue;
      c.tiles = ceil_div(k_squares, tile_k) * ceil_div(c_squares, tile_c);
      for (const TapSet& set : c.sets) {
        Axes begin = covering.taps[set.taps[0]].begin, end = covering.taps[set.taps[0]].end;
        double products = 0;
        for (const Group& g : set.groups) {
          double most = 0;
          for (const int t : g.taps) most = std::max(most, steps[t]);
          for (const int t : g.taps) products += g.joined ? most * kJoinedProduct : steps[t] * product;
        }
        for (const int t : set.taps) {
          for (int a = 0; a < 4; ++a) {
            begin[a] = std::min(begin[a], covering.taps[t].begin[a]);
            end[a] = std::max(end[a], covering.taps[t].end[a]);
          }
        }
        double boxes = 1;
        for (int a = 0; a < 4; ++a) boxes *= double(pieces(begin[a], end[a], box[a]));
        products *= tile_k * tile_c * o.products() * idle_teams(set, tile_k);
        const double bytes = o.planes * (double(tile_k) * a_bytes + double(set.parts.size()) * tile_c * b_bytes);
        c.set_cycles.push_back(boxes * box_cycles(o, products / boxes, bytes, c.stages, c.tiles > 1));
        c.set_boxes.push_back(int64_t(boxes));
      }
      // Nor can their boxes be dealt more evenly than evenly.
      const double even = std::accumulate(c.set_cycles.begin(), c.set_cycles.end(), 0.0) * double(c.tiles);
      if (search.best < even / m.multiprocessors) continue;
      c.estimate = choose_split(p, c, m, true).cycles;
      if (std::isinf(c.estimate)) continue;
      search.best = std::min(search.best, c.estimate);
      search.candidates.push_back(std::move(c));
    }
  }
}

constexpr int kPixelUnits = kPixelBytes / 16;  // of the slots' offsets

// Calls body(first pixel of each k-step in the box), in order.
template <class F>
void for_steps(const Axes& box, F body) {
  const Axes step = step_of(box);
  for (int32_t i = 0; i < box[3]; i += step[3])
    for (int32_t j = 0; j < box[2]; j += step[2])
      for (int32_t k = 0; k < box[1]; k += step[1])
        for (int32_t l = 0; l < box[0]; l += step[0]) body(Axes{l, k, j, i});
}

// The places of a tap set's boxes with the masks of its taps, and what each costs.
struct PlaceList {
  std::vector<Axes> places;  // along the image axis: 0
  std::vector<std::vector<uint32_t>> masks;
  std::vector<double> cycles;
};

// The k-steps of the box at `at` with a pixel that is live for the tap.
uint32_t live_steps(const FrameTap& tap, const Axes& box, const Axes& at) {
  const Axes step = step_of(box);
  uint32_t mask = 0;
  int bit = 0;
  for_steps(box, [&](const Axes& first) {
    bool live = true;
    for (int a = 0; a < 4; ++a) {
      const int32_t from = at[a] + first[a];
      live = live && from < tap.end[a] && from + step[a] > tap.begin[a];
    }
    mask |= uint32_t(live) << bit++;
  });
  return mask;
}

PlaceList make_places(const Candidate& c, const Covering& covering, const TapSet& set, const GradientOperands& o) {
  const Frame& f = *c.frame;
  Axes count;
  for (int a = 0; a < 4; ++a) count[a] = f.logical[a] == kImages ? 1 : int32_t(ceil_div(f.out[a], c.box[a]));
  const double bytes = o.planes * (double(c.tile_k) * double(aligned_box_bytes(c.box)) +
                                   double(set.parts.size()) * c.tile_c * double(aligned_box_bytes(c.x_box)));
  PlaceList list;
  Axes i;
  for (i[3] = 0; i[3] < count[3]; ++i[3])
    for (i[2] = 0; i[2] < count[2]; ++i[2])
      for (i[1] = 0; i[1] < count[1]; ++i[1])
        for (i[0] = 0; i[0] < count[0]; ++i[0]) {
          Axes at;
          for (int a = 0; a < 4; ++a) at[a] = i[a] * c.box[a];
          std::vector<uint32_t> masks(set.taps.size());
          double products = 0;
          size_t next = 0;
          for (const Group& g : set.groups) {
            uint32_t any = 0;
            const size_t first = next;
            for (const int t : g.taps) {
              masks[next] = live_steps(covering.taps[t], c.box, at);
              any |= masks[next++];
            }
            for (size_t j = first; j < next; ++j) {
              if (g.joined) masks[j] = any;
              products += std::popcount(masks[j]) * (g.joined             ? kJoinedProduct
                                                     : c.width == kSquare ? kProduct
                                                                          : kNarrowProduct);
            }
          }
          if (products == 0) continue;
          list.places.push_back(at);
          list.masks.push_back(std::move(masks));
          list.cycles.push_back(box_cycles(o, products * idle_teams(set, c.tile_k) * c.tile_k * c.tile_c * o.products(),
                                           bytes, c.stages, c.tiles > 1));
        }
  return list;
}

GradientPlace place_of(const Frame& f, const Axes& at) {
  std::array<int32_t, 4> logical{};
  for (int a = 0; a < 4; ++a) logical[f.logical[a]] = at[a];
  return {logical[0], logical[1], logical[2], 0};
}

// Where k-steps begin, and where the taps of a tap set do: what the kernel adds up to addresses.
void place_steps(const Candidate& c, GradientSchedule& s) {
  const Axes pitch_a = pitches(c.box), pitch_b = pitches(c.x_box);
  for_steps(c.box, [&](const Axes& at) {
    int32_t a = 0, b = 0;
    for (int i = 0; i < 4; ++i) a += at[i] * pitch_a[i], b += at[i] * pitch_b[i];
    s.step_a.push_back(a * kPixelUnits), s.step_b.push_back(b * kPixelUnits);
  });
  const bool one_row = c.box[0] % kStepPixels == 0;  // else a k-step's second 8 pixels are next along the second axis
  s.group_a = (one_row ? 8 : pitch_a[1]) * kPixelBytes, s.group_b = (one_row ? 8 : pitch_b[1]) * kPixelBytes;
}

// The squares of a tap set's blocks, and room for their partial sums. Returns which of the set's taps each has, or -1.
std::vector<int> place_squares(const Problem& p, const GradientOperands& o, const Candidate& c,
                               const Covering& covering, const TapSet& set, int splits, GradientSchedule& s) {
  std::vector<GradientSlot> slots(o.squares(), GradientSlot{0, 0, -1, -1, 0, 0, 0, 0});
  std::vector<int> tap_of(o.squares(), -1);
  const int groups = int(set.groups.size());
  std::vector<int> filter_taps;
  for (const int t : set.taps) filter_taps.push_back(covering.taps[t].filter);
  if (int64_t(set.taps.size()) == p.filter.taps()) std::ranges::sort(filter_taps);
  int order = 0;
  for (int g = 0; g < groups; ++g) {
    const Group& group = set.groups[g];
    for (int j = 0; j < int(group.taps.size()); ++j, ++order) {
      const int t = group.taps[j];
      const int filter_tap = covering.taps[t].filter;
      const int part = int(std::ranges::find(set.parts, covering.part_of[t]) - set.parts.begin());
      for (int k = 0; k < c.tile_k; ++k) {
        for (int x = 0; x < c.tile_c; ++x) {
          const int at = (k * groups + g) * o.slots() + j + x;
          GradientSlot& slot = slots[at];
          slot.k = k, slot.c = x, slot.partial = int32_t(s.partial_squares);
          slot.order = int32_t(std::ranges::find(filter_taps, filter_tap) - filter_taps.begin());
          slot.a = k * s.a_bytes() / 16;
          slot.b = o.planes * c.tile_k * s.a_bytes() / 16 + (part * c.tile_c + x) * s.b_bytes() / 16 +
                   pixel_offset(*c.frame, covering, t) * kPixelUnits;
          tap_of[at] = order;
        }
      }
      s.sums[filter_tap] = {int32_t(s.partial_squares), splits};
      s.partial_squares += splits * ceil_div(p.filter.K, kSquare) * ceil_div(p.filter.C, c.width);
    }
    for (int k = 0; k < c.tile_k && group.joined; ++k) {
      GradientSlot* const first = &slots[(k * groups + g) * o.slots()];
      first->apart = first[1].b - first[0].b;
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

// The schedule of a candidate with its tables.
GradientSchedule finish(const Problem& p, const GradientOperands& o, const GradientMachine& m, Candidate c) {
  const Frame& f = *c.frame;
  const Covering covering = cover(f, c.box, c.margins, !c.joined);
  GradientSchedule s;
  s.layout = {f.images_inner, c.box};
  s.x_box = c.x_box, s.tile_k = c.tile_k, s.tile_c = c.tile_c, s.width = c.width;
  s.max_parts = c.max_parts, s.stages = c.stages, s.stage_bytes = c.stage_bytes;
  place_steps(c, s);

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
        for (item.c = 0; item.c < ceil_div(p.filter.C, c.width); item.c += c.tile_c) timed.push_back({cycles, item});
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

// Extents worth trying along an axis: powers of two, and all of it.
std::vector<int32_t> extents_of(int32_t out, int32_t least) {
  std::vector<int32_t> extents;
  for (int64_t e = least; e < out && e <= kMaxPixels; e *= 2) extents.push_back(int32_t(e));
  extents.push_back(least == 1 ? out : int32_t(round_up(out, least)));
  if (least > 1 && extents.back() % 16 && extents.back() != 8) extents.back() = int32_t(round_up(out, 16));
  return extents;
}

std::vector<Axes> boxes_of(const Frame& f) {
  std::vector<Axes> boxes;
  int64_t most = 0;
  for (const int32_t e0 : extents_of(f.out[0], 8)) {
    for (int32_t e1 : extents_of(f.out[1], 1)) {
      if (e0 == 8) e1 = int32_t(round_up(e1, 2));
      for (const int32_t e2 : extents_of(f.out[2], 1)) {
        for (const int32_t e3 : extents_of(f.out[3], 1)) {
          const Axes box{e0, e1, e2, e3};
          if (pixels_of(box) > kMaxPixels || !fits_tensor_map(f, box)) continue;
          if (std::ranges::find(boxes, box) == boxes.end()) boxes.push_back(box);
          most = std::max(most, pixels_of(box));
        }
      }
    }
  }
  std::erase_if(boxes, [&](const Axes& box) { return pixels_of(box) < std::min<int64_t>(kFewPixels, most); });
  return boxes;
}

void consider_box(const Problem& p, const GradientOperands& o, const GradientMachine& m, const Frame& f,
                  const Axes& box, Search& search) {
  std::array<bool, 4> all, none{}, row{};
  for (int a = 0; a < 4; ++a) all[a] = f.logical[a] != kImages, row[a] = f.logical[a] == 2;
  for (const auto& margins : {all, row, none})
    for (const bool joined : {false, true})
      for (int slots = o.slots(); slots > (joined ? o.slots() - 1 : 0); --slots)
        consider(p, o, m, f, box, margins, slots, joined, kSquare, search);
  // Sums of two planes take too many registers for narrow squares to gain.
  if (o.planes == 1)
    for (const auto& margins : {all, row, none}) consider(p, o, m, f, box, margins, o.slots(), false, kNarrow, search);
}

std::optional<GradientSchedule> best_of(const Problem& p, const GradientOperands& o, const GradientMachine& m,
                                        Search& search) {
  constexpr size_t kFinalists = 4;
  std::vector<Candidate>& candidates = search.candidates;
  const size_t count = std::min(kFinalists, candidates.size());
  std::ranges::partial_sort(candidates, candidates.begin() + int64_t(count), {}, &Candidate::estimate);
  std::optional<GradientSchedule> best;
  for (size_t i = 0; i < count; ++i) {
    GradientSchedule s = finish(p, o, m, candidates[i]);
    if (!best || s.cycles < best->cycles) best = std::move(s);
  }
  return best;
}

}  // namespace

int GradientSchedule::a_bytes() const { return int(aligned_box_bytes(layout.box)); }
int GradientSchedule::b_bytes() const { return int(aligned_box_bytes(x_box)); }

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
  const std::vector<GradientTap> taps = weight_gradient_taps(p);
  const std::array<Frame, 2> frames{make_frame(p, taps, false), make_frame(p, taps, true)};
  if (frames[0].taps.empty()) {  // dW is zero
    GradientSchedule s{};
    s.sums.assign(size_t(p.filter.taps()), GradientSums{0, 0});
    return s;
  }
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
  Search search;
  for (const FramedBox& b : boxes) consider_box(p, o, m, *b.frame, b.box, search);
  std::optional<GradientSchedule> best = best_of(p, o, m, search);
  if (!best) throw Error("no box of the Hopper weight gradient fits the shared memory of this device");
  return *std::move(best);
}

}  // namespace cks::cuda::hopper

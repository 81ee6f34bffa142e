// The plan, exhaustively: on one axis every filter <= 5, stride <= 3, dilation <= 4, size <= 7 and padding, for
// convolutions and transposed convolutions, cut into boxes of every width; then random products of such axes in three
// dimensions with a batch. The reference is the operators' definition: pairs (output, tap) that read a real input
// element, enumerated one by one.
#include "plan/plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

namespace {

using cks::Dims;
using cks::Operator;
using cks::Problem;
using cks::volume;

int64_t checked_problems = 0, checked_plans = 0, checked_pairs = 0;

[[noreturn]] void fail(const Problem& p, const cks::Box& box, const char* what) {
  const auto show = [](const char* name, const Dims& d) {
    std::printf("  %s %ld %ld %ld\n", name, long(d[0]), long(d[1]), long(d[2]));
  };
  std::printf("FAIL: %s\n  %s, N %ld, box %d x %d %d %d\n", what,
              p.filter.op == Operator::kConv ? "Conv" : "ConvTranspose", long(p.N), box.n, box.extent[0], box.extent[1],
              box.extent[2]);
  show("input", p.input), show("output", p.output), show("filter", p.filter.extent), show("stride", p.stride);
  show("dilation", p.dilation), show("pad", p.pad);
  std::exit(1);
}

// The input element that tap t of output o reads on one axis, or -1: straight from the definitions in problem.h.
int64_t input_of(const Problem& p, int axis, int64_t o, int64_t t) {
  if (p.filter.op == Operator::kConv) {
    const int64_t i = o * p.stride[axis] - p.pad[axis] + t * p.dilation[axis];
    return i >= 0 && i < p.input[axis] ? i : -1;
  }
  for (int64_t i = 0; i < p.input[axis]; ++i) {
    if (i * p.stride[axis] - p.pad[axis] + t * p.dilation[axis] == o) return i;
  }
  return -1;
}

// Linear index of (n, o, t) over the whole problem.
int64_t pair_index(const Problem& p, int64_t n, const Dims& o, int64_t tap) {
  return (((n * p.output[0] + o[0]) * p.output[1] + o[1]) * p.output[2] + o[2]) * p.filter.taps() + tap;
}

// For every (n, output, tap): the linear input element it reads, or -1 where it reads none.
std::vector<int64_t> reference_pairs(const Problem& p) {
  std::vector<int64_t> live(p.N * volume(p.output) * p.filter.taps(), -1);
  const Dims F = p.filter.extent, O = p.output, I = p.input;
  Dims o, t;
  for (int64_t n = 0; n < p.N; ++n)
    for (o[0] = 0; o[0] < O[0]; ++o[0])
      for (o[1] = 0; o[1] < O[1]; ++o[1])
        for (o[2] = 0; o[2] < O[2]; ++o[2])
          for (t[0] = 0; t[0] < F[0]; ++t[0])
            for (t[1] = 0; t[1] < F[1]; ++t[1])
              for (t[2] = 0; t[2] < F[2]; ++t[2]) {
                const int64_t i0 = input_of(p, 0, o[0], t[0]), i1 = input_of(p, 1, o[1], t[1]),
                              i2 = input_of(p, 2, o[2], t[2]);
                if (i0 < 0 || i1 < 0 || i2 < 0) continue;
                live[pair_index(p, n, o, (t[0] * F[1] + t[1]) * F[2] + t[2])] =
                    ((n * I[0] + i0) * I[1] + i1) * I[2] + i2;
              }
  return live;
}

void check_plan(const Problem& p, const cks::Box& box, const std::vector<int64_t>& reference) {
  const cks::Plan plan = cks::make_plan(p, box);
  std::vector<int64_t> visited(reference.size(), -1);
  std::vector<bool> covered(p.N * volume(p.output), false);
  int64_t live = 0, executed = 0;
  for (const cks::Tile& tile : plan.tiles) {
    const cks::Phase& phase = plan.phases[tile.phase];
    executed += box.pixels() * tile.num_taps;
    if (tile.extent_n > box.n || tile.extent[0] > box.extent[0] || tile.extent[1] > box.extent[1] ||
        tile.extent[2] > box.extent[2]) {
      fail(p, box, "a tile is larger than the box");
    }
    std::vector<bool> tap_is_live(tile.num_taps, false);
    for (int n = tile.n; n < tile.n + tile.extent_n; ++n)
      for (int d = tile.origin[0]; d < tile.origin[0] + tile.extent[0]; ++d)
        for (int h = tile.origin[1]; h < tile.origin[1] + tile.extent[1]; ++h)
          for (int w = tile.origin[2]; w < tile.origin[2] + tile.extent[2]; ++w) {
            const std::array<int, 3> q{d, h, w};
            Dims o;
            for (int i = 0; i < 3; ++i) o[i] = phase.first[i] + int64_t(phase.step[i]) * q[i];
            if (o[0] >= p.output[0] || o[1] >= p.output[1] || o[2] >= p.output[2])
              fail(p, box, "a pixel outside the output");
            const int64_t pixel = pair_index(p, n, o, 0) / p.filter.taps();
            if (covered[pixel]) fail(p, box, "an output pixel lies in two tiles");
            covered[pixel] = true;
            for (int j = 0; j < tile.num_taps; ++j) {
              const cks::Tap& tap = plan.taps[tile.first_tap + j];
              const cks::LiveRange range = cks::live_range(p, phase, tap);
              bool in_range = true;
              int64_t input = n;
              for (int i = 0; i < 3; ++i) {
                in_range &= q[i] >= range.begin[i] && q[i] < range.end[i];
                input = input * p.input[i] + int64_t(q[i]) * phase.in_step[i] + tap.offset[i];
              }
              if (!in_range) continue;
              tap_is_live[j] = true;
              const int64_t pair = pair_index(p, n, o, tap.filter);
              if (visited[pair] >= 0) fail(p, box, "a pair is touched twice");
              visited[pair] = input;
              ++live;
            }
          }
    if (std::ranges::find(tap_is_live, false) != tap_is_live.end())
      fail(p, box, "a tile lists a tap that is dead in all of it");
  }
  if (visited != reference) fail(p, box, "a live pair is missing, a dead one is touched, or one reads the wrong input");
  if (std::ranges::find(covered, false) != covered.end()) fail(p, box, "an output pixel lies in no tile");
  if (live != plan.live_pixel_taps || executed != plan.executed_pixel_taps)
    fail(p, box, "the plan's own counts are wrong");
  if (!std::ranges::is_sorted(plan.tiles, std::greater<>{}, &cks::Tile::num_taps))
    fail(p, box, "tiles are not longest first");
  ++checked_plans;
  checked_pairs += live;
}

// The box that choose_box names must be legal, and no other may multiply less by the same count.
void check_box(const Problem& p, int rows) {
  constexpr double kOverhead = 0.25;
  const auto cost = [&](const cks::Box& box) {
    const cks::Plan plan = cks::make_plan(p, box);
    double total = 0;
    for (const cks::Tile& t : plan.tiles) total += t.num_taps + kOverhead;
    return total;
  };
  const cks::Box best = cks::choose_box(p, rows, kOverhead);
  if (best.pixels() > rows) fail(p, best, "the chosen box has more pixels than rows");
  const double least = cost(best);
  for (int d = 1; d <= rows && d <= p.output[0]; ++d)
    for (int h = 1; d * h <= rows && h <= p.output[1]; ++h)
      for (int w = 1; d * h * w <= rows && w <= p.output[2]; ++w) {
        const cks::Box other{std::max(1, int(std::min<int64_t>(p.N, rows / (d * h * w)))), {d, h, w}};
        if (cost(other) < least - 1e-9) fail(p, best, "choose_box missed a cheaper box");
      }
}

void check_weight_gradient(const Problem& p, const std::vector<int64_t>& reference) {
  std::vector<int64_t> visited(reference.size(), -1);
  const auto taps = cks::weight_gradient_taps(p);
  if (int64_t(taps.size()) != p.filter.taps()) fail(p, {}, "the weight gradient does not list every tap");
  for (size_t f = 0; f < taps.size(); ++f) {
    const auto& [tap, live] = taps[f];
    if (tap.filter != int64_t(f)) fail(p, {}, "the weight gradient's taps are out of order");
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t d = live.begin[0]; d < live.end[0]; ++d)
        for (int64_t h = live.begin[1]; h < live.end[1]; ++h)
          for (int64_t w = live.begin[2]; w < live.end[2]; ++w) {
            const int64_t i =
                ((n * p.input[0] + d * p.stride[0] + tap.offset[0]) * p.input[1] + h * p.stride[1] + tap.offset[1]) *
                    p.input[2] +
                w * p.stride[2] + tap.offset[2];
            visited[pair_index(p, n, {d, h, w}, tap.filter)] = i;
          }
  }
  if (visited != reference) fail(p, {}, "the weight gradient misses a live pair or touches a dead one");
}

// Pixels that are joined into one row read what they read before; others are not joined.
void check_joined(const Problem& p, const std::vector<int64_t>& reference) {
  const auto every = [](const Dims& d, int64_t value) { return d == Dims{value, value, value}; };
  const bool own_place = every(p.filter.extent, 1) && every(p.stride, 1) && every(p.pad, 0) && p.input == p.output;
  using enum cks::Layout;
  using cks::Layouts;
  for (const Layouts layouts : {Layouts(kNCHW), Layouts(kNHWC), Layouts(kNCHW, kNHWC), Layouts(kNHWC, kNCHW)}) {
    const Problem joined = cks::joined_pixels(p, layouts);
    const bool all_images = layouts == kNHWC;
    const Dims row{1, 1, volume(p.output) * (all_images ? p.N : 1)};
    if (joined.output != (own_place ? row : p.output) || joined.N != (own_place && all_images ? 1 : p.N))
      fail(p, {}, "pixels are joined that have neighbours, or are not though they have none");
    if (reference_pairs(joined) != reference) fail(p, {}, "joining the pixels changes what is read");
  }
}

// What would overflow is refused in words, not computed.
void check_limits() {
  using cks::Attributes;
  const auto refused = [](const Attributes& a, std::vector<int64_t> w, std::vector<int64_t> x) {
    try {
      cks::make_problem(a, cks::make_filter(a, w), x, cks::Layout::kNCHW);
    } catch (const cks::Error&) {
      return true;
    }
    return false;
  };
  const auto expect = [](bool holds, const char* what) {
    if (!holds) std::printf("FAIL: %s\n", what), std::exit(1);
  };
  constexpr int64_t kHuge = int64_t(1) << 62, k30 = 1 << 30;
  const std::vector<int64_t> w{1, 1, 3}, x{1, 1, 8};
  Attributes a;
  for (const Operator op : {Operator::kConv, Operator::kConvTranspose}) {
    a = {}, a.op = op;
    expect(!refused(a, w, x), "an ordinary problem is refused");
    a.strides = {kHuge}, expect(refused(a, w, x), "a huge stride is taken"), a.strides = {};
    a.dilations = {kHuge}, expect(refused(a, w, x), "a huge dilation is taken");
    a.dilations = {k30}, expect(refused(a, w, x), "a filter that reaches over 2^31 is taken"), a.dilations = {};
    a.pads = {kHuge, kHuge}, expect(refused(a, w, x), "huge pads are taken"), a.pads = {};
    a.group = kHuge, expect(refused(a, {4, 4, 3}, {1, 4, 8}), "a huge group is taken");
  }
  a = {}, a.op = Operator::kConvTranspose, a.strides = {k30, k30, k30};
  expect(refused(a, {1, 1, 1, 1, 1}, {1, 1, 2, 2, 2}), "an output of 2^90 pixels is taken");
}

struct Axis {
  int64_t input, filter, stride, dilation, pad_begin, pad_end, output_padding;
};

Problem make(Operator op, int64_t N, const std::array<Axis, 3>& axes) {
  cks::Attributes a;
  a.op = op;
  std::vector<int64_t> x{N, 1}, w{1, 1}, pad_end;
  for (const Axis& s : axes) {
    x.push_back(s.input), w.push_back(s.filter);
    a.strides.push_back(s.stride), a.dilations.push_back(s.dilation), a.pads.push_back(s.pad_begin),
        pad_end.push_back(s.pad_end);
    if (op == Operator::kConvTranspose) a.output_padding.push_back(s.output_padding);
  }
  a.pads.insert(a.pads.end(), pad_end.begin(), pad_end.end());
  return cks::make_problem(a, cks::make_filter(a, w), x, cks::Layout::kNCHW);
}

int64_t output_extent(Operator op, const Axis& a) {
  const int64_t reach = (a.filter - 1) * a.dilation + 1;
  if (op == Operator::kConvTranspose)
    return (a.input - 1) * a.stride + a.output_padding + reach - a.pad_begin - a.pad_end;
  const int64_t room = a.input + a.pad_begin + a.pad_end - reach;
  return room < 0 ? 0 : room / a.stride + 1;
}

template <typename Body>
void for_each_axis(Operator op, const Body& body) {
  for (int64_t input = 1; input <= 7; ++input)
    for (int64_t filter = 1; filter <= 5; ++filter)
      for (int64_t stride = 1; stride <= 3; ++stride)
        for (int64_t dilation = 1; dilation <= 4; ++dilation) {
          const int64_t reach = (filter - 1) * dilation + 1;  // a pad of reach makes whole outputs dead
          const int64_t extra = op == Operator::kConv ? 1 : std::max(stride, dilation);
          for (int64_t pb = 0; pb <= reach; ++pb)
            for (int64_t pe = 0; pe <= reach; ++pe)
              for (int64_t op_pad = 0; op_pad < extra; ++op_pad) {
                const Axis a{input, filter, stride, dilation, pb, pe, op_pad};
                if (output_extent(op, a) > 0) body(a);
              }
        }
}

}  // namespace

int main() {
  check_limits();
  constexpr Axis kNeutral{1, 1, 1, 1, 0, 0, 0};
  for (const Operator op : {Operator::kConv, Operator::kConvTranspose}) {
    std::vector<Axis> all;
    for_each_axis(op, [&](const Axis& a) {
      all.push_back(a);
      const Problem p = make(op, 1, {kNeutral, kNeutral, a});
      const std::vector<int64_t> reference = reference_pairs(p);
      if (p.output[2] != output_extent(op, a)) fail(p, {}, "the output extent is wrong");

      for (int w = 1; w <= p.output[2]; ++w) check_plan(p, {1, {1, 1, w}}, reference);
      if (op == Operator::kConv) check_weight_gradient(p, reference);
      ++checked_problems;
    });
    for (int64_t size = 1; size <= 4; ++size) {
      const Axis map{size, 1, 1, 2, 0, 0, 0};
      const Problem p = make(op, 3, {kNeutral, map, map});
      check_joined(p, reference_pairs(p));
    }
    Problem large = make(op, 3, {kNeutral, kNeutral, kNeutral});
    large.input = large.output = {1, int64_t(1) << 16, int64_t(1) << 15};
    if (cks::joined_pixels(large, cks::Layout::kNHWC).N != 3) fail(large, {}, "a row longer than 2^31 is joined");
    std::mt19937 random(7);
    const auto pick = [&](int limit) { return int(random() % limit) + 1; };
    for (int i = 0; i < 3000; ++i) {
      std::array<Axis, 3> axes;
      for (Axis& a : axes) do
          a = all[random() % all.size()];
        while (output_extent(op, a) > 8);
      const Problem p = make(op, pick(3), axes);
      const std::vector<int64_t> reference = reference_pairs(p);
      check_plan(p, {pick(3), {pick(3), pick(4), pick(5)}}, reference);
      check_joined(p, reference);
      if (op == Operator::kConv) check_weight_gradient(p, reference);
      if (i % 100 == 0) check_box(p, pick(24));
      ++checked_problems;
    }
  }
  std::printf("%ld problems, %ld plans, %ld live pairs: each touched once, no dead one\n", long(checked_problems),
              long(checked_plans), long(checked_pairs));
}

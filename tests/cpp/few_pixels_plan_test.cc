// The plan of the weight gradient for few pixels, decoded back to pixels, without a GPU.
#include "ops_cuda/few_pixels_plan.h"

#include <cstdio>
#include <map>
#include <random>
#include <tuple>

using namespace cks;
using namespace cks::cuda;

namespace {

constexpr FewPixelsMachine kH200{132, 228 << 10, 227 << 10};
int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  if (++failed < 20) std::printf("FAILED: %s\n", what);
}

int64_t pick(std::mt19937& random, std::initializer_list<int64_t> from) {
  return from.begin()[std::uniform_int_distribution<size_t>(0, from.size() - 1)(random)];
}

Problem random_problem(std::mt19937& random) {
  for (;;) {
    Problem p;
    p.filter = {Operator::kConv, pick(random, {8, 40, 512}), pick(random, {8, 64, 512}), 1, {1, 1, 1}};
    p.N = pick(random, {1, 2, 5, 32});
    bool valid = true;
    for (size_t i = size_t(pick(random, {0, 1, 1, 2})); i < 3; ++i) {
      const int64_t f = pick(random, {1, 2, 3, 5}), s = pick(random, {1, 1, 2, 3}), d = pick(random, {1, 1, 2, 7});
      p.filter.extent[i] = f, p.stride[i] = s, p.dilation[i] = d;
      p.input[i] = pick(random, {1, 2, 4, 7});
      p.pad[i] = pick(random, {0, 1, (f - 1) * d / 2, (f - 1) * d});
      p.output[i] = (p.input[i] + 2 * p.pad[i] - (f - 1) * d - 1 + s) / s;
      valid = valid && p.output[i] > 0 && p.input[i] + 2 * p.pad[i] > (f - 1) * d;
    }
    if (valid) return p;
  }
}

// (tap, pixel of dY, pixel of X): those that meet, by the definition in plan/problem.h.
using Meeting = std::tuple<int64_t, int64_t, int64_t>;
std::map<Meeting, int> all_meetings(const Problem& p) {
  std::map<Meeting, int> meetings;
  for (int64_t tap = 0; tap < p.filter.taps(); ++tap) {
    const Dims &f = p.filter.extent, at{tap / f[2] / f[1], tap / f[2] % f[1], tap % f[2]};
    for (int64_t o = 0; o < p.N * volume(p.output); ++o) {
      const Dims& size = p.output;
      const Dims q{o / size[2] / size[1] % size[0], o / size[2] % size[1], o % size[2]};
      int64_t x = o / volume(size);
      bool real = true;
      for (size_t i = 0; i < 3; ++i) {
        const int64_t in = q[i] * p.stride[i] - p.pad[i] + at[i] * p.dilation[i];
        real = real && in >= 0 && in < p.input[i];
        x = x * p.input[i] + in;
      }
      if (real) ++meetings[{tap, o, x}];
    }
  }
  return meetings;
}

std::map<Meeting, int> planned_meetings(const Problem& p, const FewPixelsPlan& plan, int planes) {
  std::map<Meeting, int> meetings;
  const int row_units = few_pixels_row_bytes(planes) / kFewPixelsUnit;
  const int32_t* const pixels = plan.lists.data();
  const int32_t* const first_step = pixels + plan.dy_rows + plan.x_rows;
  const int64_t taps = p.filter.taps();
  for (int64_t unit = 0; unit < taps * plan.shares; ++unit) {
    expect(first_step[unit] <= first_step[unit + 1], "steps of units follow each other");
    for (int64_t i = int64_t(first_step[unit]) * kFewPixelsStep; i < int64_t(first_step[unit + 1]) * kFewPixelsStep;
         ++i) {
      const uint32_t pair = uint32_t(plan.lists[size_t(plan.steps_at + i)]);
      expect((pair & 0xffff) % uint32_t(row_units) == 0 && (pair >> 16) % uint32_t(row_units) == 0, "whole rows");
      const int dy_row = int(pair & 0xffff) / row_units, x_row = int(pair >> 16) / row_units;
      expect(dy_row < plan.dy_rows && x_row < plan.x_rows, "rows that exist");
      const int32_t dy = pixels[dy_row], x = pixels[plan.dy_rows + x_row];
      expect((dy < 0) == (x < 0), "zeros meet zeros");
      if (dy >= 0) ++meetings[{unit % taps, dy, x}];
    }
  }
  return meetings;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int plans = 0, shared = 0;
  int64_t pairs = 0;
  for (int i = 0; i < 400; ++i) {
    const Problem p = random_problem(random);
    const int planes = int(pick(random, {1, 2}));
    const auto plan = plan_few_pixels(p, planes, kH200);
    if (!plan) continue;
    ++plans, shared += plan->shares > 1;
    expect(plan->lists[size_t(plan->dy_rows - 1)] == -1, "the last row of dY holds zeros");
    expect(plan->lists[size_t(plan->dy_rows + plan->x_rows - 1)] == -1, "so does that of X");
    expect(plan->steps_at % 2 == 0 && plan->lists.size() % 4 == 0, "what is read at once is aligned");
    expect(plan->shared_bytes <= kH200.block_shared_bytes && plan->cycles > 0, "it fits, and takes time");
    const auto meetings = planned_meetings(p, *plan, planes);
    expect(meetings == all_meetings(p), "each pixel of dY meets what its taps read, once");
    pairs += int64_t(meetings.size());
  }
  std::printf("%d plans, %d of them with shares, %lld pairs\n", plans, shared, static_cast<long long>(pairs));
  expect(plans > 200 && shared > 50, "enough was looked at");
  return failed > 0;
}

// Random problems that the reference is fast enough for, and that reach every kernel.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <random>

#include "plan/problem.h"

namespace cks::test {

inline int64_t pick(std::mt19937& random, std::initializer_list<int64_t> from) {
  return from.begin()[std::uniform_int_distribution<size_t>(0, from.size() - 1)(random)];
}

// Few channels in and out, such as fill whole steps of the tensor cores, or chunks of them; transposed, few outputs.
inline void make_narrow(Filter& f, std::mt19937& random) {
  if (f.op == Operator::kConvTranspose) {
    f.groups = 1, f.C = pick(random, {2, 4, 8, 12, 16, 24, 56, 64}), f.K = pick(random, {1, 1, 2, 3, 4, 7});
    return;
  }
  f.groups = pick(random, {1, 1, 1, 2});
  f.C = f.groups * pick(random, {4, 8, 12, 16, 32, 48, 56, 64}),
  f.K = f.groups * pick(random, {8, 12, 16, 24, 32, 64, 72});
}

// Channels of X: whole blocks of the Hopper kernel, in most cases, or whole chunks, or neither; of X2 likewise.
inline void make_two_inputs(Problem& p, std::mt19937& random) {
  p.filter.groups = pick(random, {1, 1, 1, 1, 1, 2});
  const int64_t x_channels = pick(random, {64, 64, 128, 192, 32, 16, 8, 10});
  p.x2_channels = pick(random, {8, 16, 64, 72, 136, 32, 16, 6});
  p.filter.C = x_channels + p.x2_channels, p.filter.K = p.filter.groups * pick(random, {8, 24, 32, 64, 72, 132, 256});
}

enum class Kind { kAny, kNarrow, kTwoInputs };

// A problem with an output, small enough for the reference.
inline Problem random_problem(std::mt19937& random, Operator op, Kind kind) {
  for (;;) {
    Problem p;
    p.filter.op = op;
    const int rank = int(pick(random, {1, 2, 2, 2, 3}));
    const bool depthwise = pick(random, {0, 0, 0, 1}) == 1;
    p.filter.groups = depthwise ? pick(random, {1, 3, 8, 24, 64, 65, 320}) : pick(random, {1, 1, 1, 1, 2, 3, 8, 32});
    p.filter.C = p.filter.groups * (depthwise ? 1 : pick(random, {1, 2, 3, 4, 7, 8, 12, 16, 20, 32, 56, 64, 72, 130}));
    p.filter.K = p.filter.groups *
                 (depthwise ? pick(random, {1, 1, 1, 2}) : pick(random, {1, 2, 3, 4, 8, 12, 17, 32, 64, 132, 256}));
    if (kind == Kind::kNarrow) make_narrow(p.filter, random);
    if (kind == Kind::kTwoInputs) make_two_inputs(p, random);
    p.N = pick(random, {0, 1, 1, 1, 2, 3, 5, 17, 70});
    bool valid = true;
    for (int i = 3 - rank; i < 3; ++i) {
      const int64_t f = pick(random, {1, 2, 3, 3, 4, 5, 7}), s = pick(random, {1, 1, 2, 2, 3, 5}),
                    d = pick(random, {1, 1, 1, 2, 3, 6});
      p.filter.extent[i] = f, p.stride[i] = s, p.dilation[i] = d;
      p.input[i] = pick(random, {1, 2, 3, 4, 7, 8, 13, 20, 33, 70, 150});
      const int64_t span = (f - 1) * d;
      p.pad[i] = std::uniform_int_distribution<int64_t>(0, span + 1)(random);
      const int64_t end = std::uniform_int_distribution<int64_t>(0, span + 1)(random);
      const int64_t extra = std::uniform_int_distribution<int64_t>(0, std::max(s, d) - 1)(random);
      p.output[i] = op == Operator::kConv ? (p.input[i] + p.pad[i] + end - span - 1 + s) / s
                                          : (p.input[i] - 1) * s + span + 1 - p.pad[i] - end + extra;
      valid = valid && p.output[i] > 0 && (op != Operator::kConv || p.input[i] + p.pad[i] + end > span);
    }
    const double products = double(std::max<int64_t>(p.N, 1)) * double(volume(p.output)) * double(p.filter.elements());
    if (valid && products < 2e8) return p;
  }
}

}  // namespace cks::test

#include "ops_cuda/few_pixels_plan.h"

#include <algorithm>

namespace cks::cuda {
namespace {

constexpr int64_t kMostPairs = 1 << 15;  // of pixels that meet: what a plan may take to make
constexpr int kLeastWarps = 8;           // lest copies take too long

// What one thing costs, in cycles: set by hand after layers timed on an H200 (docs/notebook.md).
constexpr double kStart = 4400;
constexpr double kCopy = 140;               // of a chunk, a thread
constexpr double kStep[2] = {150, 440};     // by itself, with one plane and with two,
constexpr double kStepWarp[2] = {62, 160};  // and for each warp of its scheduler
constexpr double kWriteRate = 25;           // bytes of dW, of a multiprocessor

struct Pair {
  int32_t dy, x;  // pixels, counted over all images; then rows
};

// Of a tap, in the order of dY's pixels.
std::vector<Pair> pairs_of(const Problem& p, const GradientTap& g) {
  const auto pixel = [](int64_t n, const Dims& size, int64_t d, int64_t h, int64_t w) {
    return int32_t(((n * size[0] + d) * size[1] + h) * size[2] + w);
  };
  const Index3 &begin = g.live.begin, &end = g.live.end, &offset = g.tap.offset;
  std::vector<Pair> pairs;
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t d = begin[0]; d < end[0]; ++d)
      for (int64_t h = begin[1]; h < end[1]; ++h)
        for (int64_t w = begin[2]; w < end[2]; ++w)
          pairs.push_back(
              {pixel(n, p.output, d, h, w), pixel(n, p.input, d * p.stride[0] + offset[0], h * p.stride[1] + offset[1],
                                                  w * p.stride[2] + offset[2])});
  return pairs;
}

// Gives each pixel that any pair has a row, and pairs their rows; returns the pixels of all rows.
std::vector<int32_t> to_rows(std::vector<std::vector<Pair>>& taps, int32_t Pair::* pixel) {
  std::vector<int32_t> rows;
  for (const std::vector<Pair>& pairs : taps)
    for (const Pair& pair : pairs) rows.push_back(pair.*pixel);
  std::ranges::sort(rows);
  const auto twice = std::ranges::unique(rows);
  rows.erase(twice.begin(), twice.end());
  for (std::vector<Pair>& pairs : taps)
    for (Pair& pair : pairs) pair.*pixel = int32_t(std::ranges::lower_bound(rows, pair.*pixel) - rows.begin());
  rows.push_back(-1);
  return rows;
}

double expected_cycles(const Problem& p, const FewPixelsPlan& plan, int planes, const FewPixelsMachine& m) {
  const int64_t units = p.filter.taps() * plan.shares;
  const int32_t* const first_step = plan.lists.data() + plan.dy_rows + plan.x_rows;
  std::vector<int32_t> steps(size_t(plan.warps));  // of each warp
  for (int64_t unit = 0; unit < units; ++unit)
    steps[size_t(unit % plan.warps)] += first_step[unit + 1] - first_step[unit];
  const int64_t blocks = ceil_div(p.filter.K, kFewPixelsTile) * ceil_div(p.filter.C, kFewPixelsTile);
  const int64_t resident =
      std::min<int64_t>({2, m.shared_bytes / (plan.shared_bytes + 1024), ceil_div(blocks, m.multiprocessors)});
  const double chunks = double(plan.dy_rows + plan.x_rows) * kFewPixelsTile / 4;
  const double tile_bytes = double(p.filter.taps()) * kFewPixelsTile * kFewPixelsTile * sizeof(float);
  const double wave = chunks / (plan.warps * 32) * kCopy +
                      std::ranges::max(steps) *
                          (kStep[planes - 1] + kStepWarp[planes - 1] * double(ceil_div(resident * plan.warps, 4))) +
                      double(resident) * tile_bytes / kWriteRate;
  return kStart + double(ceil_div(blocks, m.multiprocessors * resident)) * wave;
}

}  // namespace

std::optional<FewPixelsPlan> plan_few_pixels(const Problem& p, int planes, const FewPixelsMachine& m) {
  const int64_t taps = p.filter.taps();
  if (p.N * volume(p.output) * taps > kMostPairs || p.N * volume(p.input) > INT32_MAX) return {};
  std::vector<std::vector<Pair>> pairs;
  for (const GradientTap& g : weight_gradient_taps(p)) pairs.push_back(pairs_of(p, g));
  const std::vector<int32_t> dy = to_rows(pairs, &Pair::dy), x = to_rows(pairs, &Pair::x);
  const int units_of_row = few_pixels_row_bytes(planes) / kFewPixelsUnit;
  if (std::max(dy.size(), x.size()) * size_t(units_of_row) >= 1 << 16) return {};

  FewPixelsPlan plan{};
  plan.dy_rows = int(dy.size()), plan.x_rows = int(x.size());
  plan.shares = int(std::max<int64_t>(1, kFewPixelsMostWarps / taps));
  plan.warps = int(std::clamp<int64_t>(taps * plan.shares, kLeastWarps, kFewPixelsMostWarps));
  plan.lists = dy;
  plan.lists.insert(plan.lists.end(), x.begin(), x.end());
  plan.steps_at = int(round_up(plan.dy_rows + plan.x_rows + taps * plan.shares + 1, 2));
  std::vector<int32_t> steps;
  const auto pack = [&](const Pair& rows) {
    return int32_t(uint32_t(rows.dy * units_of_row) | uint32_t(rows.x * units_of_row) << 16);
  };
  for (int share = 0; share < plan.shares; ++share) {
    for (const std::vector<Pair>& all : pairs) {
      plan.lists.push_back(int32_t(steps.size()) / kFewPixelsStep);
      const int64_t of_tap = ceil_div(int64_t(all.size()), kFewPixelsStep);
      for (int64_t step = of_tap * share / plan.shares; step < of_tap * (share + 1) / plan.shares; ++step) {
        for (const int64_t i : {0, 4, 1, 5, 2, 6, 3, 7}) {
          const size_t at = size_t(step * kFewPixelsStep + i);
          steps.push_back(pack(at < all.size() ? all[at] : Pair{plan.dy_rows - 1, plan.x_rows - 1}));
        }
      }
    }
  }
  plan.lists.push_back(int32_t(steps.size()) / kFewPixelsStep);
  plan.lists.resize(size_t(plan.steps_at));
  plan.lists.insert(plan.lists.end(), steps.begin(), steps.end());
  plan.lists.resize(size_t(round_up(int64_t(plan.lists.size()), 4)));
  plan.sum_pitch = int(kFewPixelsTile * taps) + 1;
  plan.shared_bytes = int(plan.lists.size() * sizeof(int32_t)) +
                      (plan.dy_rows + plan.x_rows) * few_pixels_row_bytes(planes) +
                      plan.shares * kFewPixelsTile * plan.sum_pitch * int(sizeof(float));
  if (plan.shared_bytes > m.block_shared_bytes) return {};
  plan.cycles = expected_cycles(p, plan, planes, m);
  return plan;
}

}  // namespace cks::cuda

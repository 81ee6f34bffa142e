#include "ops_cuda/hopper/gradient_cost.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

namespace cks::cuda::hopper::gradient {
namespace {

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
constexpr double kStageRate = 30;                   // bytes of sums: left in shared memory,
constexpr double kPeerRate = 15;                    // read from another block's,
constexpr double kRowRate = 15;                     // and written as rows of dW, two bytes each

// What a block does beside its boxes.
double item_end(const Candidate& c, int taps) {
  return kStart + double(c.tile_k) * c.tile_c * taps * kSquare * kSquare * sizeof(float) / kWriteRate;
}

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

}  // namespace

double product_cycles(int width, bool joined) {
  return joined ? kJoinedProduct : width == kSquare ? kProduct : kNarrowProduct;
}

double box_cycles(const GradientOperands& o, double products, double bytes, int stages, bool shared) {
  // With few stages a box waits for the one that had its stage.
  const double ring = (bytes / kAloneRate + kLatency) / (stages - 1);
  // Before sums are promoted a team's products must end, and nobody else's may fill all of the gap.
  const double drain = o.planes == 2 ? kDrain : 0;
  const double load = bytes / (shared ? kLoadRate : kOwnLoadRate);
  return std::max({products + kLoadShare * load + drain, load, ring, kBoxOverhead});
}

double idle_teams(const TapSet& set, int tile_k) {
  const size_t busy = set.groups.size() * size_t(tile_k);
  return busy == 1 ? kOneTeam : busy == 2 ? kTwoTeams : 1;
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

}  // namespace cks::cuda::hopper::gradient

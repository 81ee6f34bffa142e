#include "ops_cuda/hopper/gradient_cost.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

namespace cks::cuda::hopper::gradient {
namespace {

// What one thing costs a block, in cycles (of 1.7 GHz): fitted to layouts timed on an H200 (docs/notebook.md).
constexpr double kProduct = 38.9;         // a product of 64 x 64 x 16, by itself,
constexpr double kJoinedProduct = 32;     // and in a run;
constexpr double kNarrowColumn = 0.463;   // a column of a narrow run,
constexpr double kNarrowOperand = 0.265;  // or of its operands, both together
constexpr double kLoadBox = 254;          // a load, whatever it brings,
constexpr double kLoadRate = 55.6;        // and its bytes, all SMs at work on the same pixels,
constexpr double kOwnLoadRate = 23.5;     // or each on its own,
constexpr double kMemoryRate = 25;        // or of floats, from memory
constexpr double kLeastPixel = 93.2;      // bytes: a pixel of fewer takes as long
constexpr double kConvertBox = 442;       // a stage of floats, made halves of by warps in turn,
constexpr double kConvertRate = 24.4;     // and its bytes;
constexpr double kShareBox = 286;         // or by all of them,
constexpr double kShareRate = 23.7;       // likewise,
constexpr double kShareRateTwice = 13.4;  // or to two halves;
constexpr double kConvertPart = 499;      // each box of X in a stage but the first
constexpr double kConvertShare = 0.402;   // of all this, while products read the same shared memory
constexpr double kGuess = 4430;           // scales found in the first box
constexpr double kPassStart = 5850;       // passes that convert before,
constexpr double kPass = 0.00452;         // for each element,
constexpr double kPassTwice = 0.00566;    // or to two halves;
constexpr double kFewStart = 9270;        // and one pass,
constexpr double kFew = 0.000925;         // for each element
constexpr double kLoadShare = 0.254;      // of a load, while products run
constexpr double kAloneRate = 100;        // bytes, what one SM can have
constexpr double kLatency = 3020;         // of a load
constexpr double kDrain = 301;            // of products, until their sums can be read
constexpr double kBoxOverhead = 862;      // tables are read and barriers passed meanwhile
constexpr double kTwoTeams = 1.1;         // times as long: products where a team or two have none
constexpr double kStart = 2560;           // until the first box is copied, and the end
constexpr double kHidden = 600;           // of that, where blocks leave SMs to those of the next launch
constexpr double kWriteRate = 78.3;       // bytes of partial squares, written,
constexpr double kReadRate = 14.8;        // and read by the kernel that adds them
constexpr double kSumStart = 2480;        // that kernel
constexpr double kSumSplit = 19.6;        // each part of its sums
constexpr double kSumWriteRate = 10.2;    // bytes of dW (two each), written by it
constexpr double kMeet = 3040;            // of a cluster, before and after it reads others' sums
constexpr double kGather = 4630;          // where rows of dW are not a block's own as they lie there
constexpr double kStageRate = 27;         // bytes of sums: left in shared memory,
constexpr double kPeerRate = 36.2;        // read from another block's,
constexpr double kRowRate = 12.5;         // and written as rows of dW, two bytes each

// What a block does beside its boxes.
double item_end(const Candidate& c, int taps) {
  return kStart + double(c.tile_k) * c.tile_c * taps * kSquare * kSquare * sizeof(float) / kWriteRate;
}

// What does not show of the start where so few blocks are launched that the next launch's find SMs to wait on.
double hidden_start(int64_t blocks, const GradientMachine& m) { return 2 * blocks <= m.multiprocessors ? kHidden : 0; }

// Whether blocks can write dW themselves: as clusters with so many parts of every sum.
bool can_be_direct(const Problem& p, const Candidate& c, const GradientMachine& m, int splits) {
  const int64_t blocks = int64_t(c.sets.size()) * splits;
  if (c.tile_k > 1 || c.tile_c > 1 || blocks > kMaxGradientCluster || m.clusters[size_t(blocks)] == 0) return false;
  size_t live = 0, most = 0;
  for (const TapSet& set : c.sets) live += set.taps.size(), most = std::max(most, set.taps.size());
  for (const int64_t boxes : c.set_boxes)
    if (boxes < splits) return false;
  // As if dW were of floats, whatever it is.
  return gradient_row_space(c.shape.width, int(most), int(live), int(p.filter.taps()), splits, sizeof(float),
                            m.shared_bytes - kGradientFixedBytes)
             .row_channels > 0;
}

// Until a cluster has summed up and written its square of dW, beside the products.
double rows_end(const Problem& p, const Candidate& c, int splits) {
  size_t most = 0;
  for (const TapSet& set : c.sets) most = std::max(most, set.taps.size());
  const double elements = double(most) * kSquare * c.shape.width, blocks = double(c.sets.size()) * splits;
  const double bytes = elements * (splits > 1 ? 4 : 2);
  const bool whole = int64_t(most) == p.filter.taps();
  return kStart + (blocks > 1 ? kMeet : 0) + (whole ? 0 : kGather) + bytes / kStageRate +
         bytes * (blocks - 1) / blocks / kPeerRate +
         double(p.filter.taps()) * kSquare * c.shape.width * 2 / blocks / kRowRate;
}

// The longest of a tap set's parts.
double part_cycles(const Candidate& c, size_t set, int64_t splits) {
  return c.set_fill[set] + c.set_cycles[set] / double(c.set_boxes[set]) * double(ceil_div(c.set_boxes[set], splits));
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

double product_cycles(const GradientShape& s, bool joined) {
  if (!s.narrow()) return joined ? kJoinedProduct : kProduct;
  const int columns = s.width * s.join;
  return std::max(kNarrowColumn * columns, kNarrowOperand * (kSquare + columns)) / s.join;
}

double load_bytes(const GradientOperands& o, const Candidate& c, size_t boxes_of_x) {
  if (o.floats)
    return double(float_box_bytes(c.box, kSquare)) +
           double(boxes_of_x) * double(float_box_bytes(c.x_box, c.shape.width));
  return o.planes * (double(c.tile_k) * double(pixels_of(c.box)) * pixel_bytes(kSquare) +
                     double(boxes_of_x) * c.tile_c * double(pixels_of(c.x_box)) *
                         std::max(kLeastPixel, double(pixel_bytes(c.shape.width))));
}

namespace {

double convert_cycles(const GradientOperands& o, const Candidate& c, double bytes) {
  if (!o.floats) return 0;
  const double parts = kConvertPart * (c.max_parts - 1);
  if (o.planes == 2) return parts + kShareBox + bytes / kShareRateTwice;
  return parts +
         (c.float_stages == kMaxFloatStages ? kConvertBox + bytes / kConvertRate : kShareBox + bytes / kShareRate);
}

}  // namespace

double fill_cycles(const GradientOperands& o, const Candidate& c, double bytes) {
  return bytes / kAloneRate + (o.floats ? kGuess + convert_cycles(o, c, bytes) : 0);
}

double box_cycles(const GradientOperands& o, const Candidate& c, double products, double bytes) {
  // With few stages a box waits for the one that had its stage.
  const double ring = (bytes / kAloneRate + kLatency) / (o.floats ? c.float_stages : c.stages - 1);
  // Before sums are promoted a team's products must end, and nobody else's may fill all of the gap.
  const double drain = o.planes == 2 ? kDrain : 0;
  // Floats are read from memory by tiles that have them for themselves.
  const double load = kLoadBox + bytes / (c.tiles > 1 ? kLoadRate : o.floats ? kMemoryRate : kOwnLoadRate);
  const double convert = convert_cycles(o, c, bytes);
  return std::max({products + kLoadShare * load + kConvertShare * convert + drain, load, ring, convert, kBoxOverhead});
}

double conversion_cycles(const Problem& p, const GradientOperands& o) {
  const double elements =
      double(p.N) * (double(volume(p.output)) * double(p.filter.K) + double(volume(p.input)) * double(p.filter.C));
  if (p.N * std::max(volume(p.output), volume(p.input)) <= kFewPixels) return kFewStart + elements * kFew;
  return kPassStart + elements * (o.planes == 1 ? kPass : kPassTwice);
}

double idle_teams(const TapSet& set, int tile_k) {
  const size_t busy = set.groups.size() * size_t(tile_k);
  return busy == 2 ? kTwoTeams : 1;
}

double direct_cycles(const Problem& p, const Candidate& c, const GradientMachine& m, int splits) {
  const double waves = std::ceil(double(c.tiles) / m.clusters[c.sets.size() * size_t(splits)]);
  double longest = 0;
  for (size_t i = 0; i < c.sets.size(); ++i) longest = std::max(longest, part_cycles(c, i, splits));
  const int64_t blocks = c.tiles * int64_t(c.sets.size()) * splits;
  return waves * (longest + rows_end(p, c, splits)) - hidden_start(blocks, m);
}

double summed_cycles(const Problem& p, const Candidate& c, const GradientMachine& m, const std::vector<int>& splits,
                     bool roughly) {
  std::vector<Items> items;
  double squares = 0;
  int64_t blocks = 0;
  for (size_t i = 0; i < c.sets.size(); ++i) {
    const int64_t n = splits[i];
    const int taps = int(c.sets[i].taps.size());
    items.push_back({part_cycles(c, i, n) + item_end(c, taps), n * c.tiles});
    blocks += n * c.tiles;
    squares += double(n * c.tiles) * taps * c.tile_k * c.tile_c;
  }
  return (roughly ? deal_roughly(items, m.multiprocessors) : deal(items, m.multiprocessors)) - hidden_start(blocks, m) +
         kSumStart + std::ranges::max(splits) * kSumSplit +
         squares * kSquare * kSquare * sizeof(float) / kReadRate / m.multiprocessors +
         double(p.filter.elements()) * 2 / kSumWriteRate / m.multiprocessors;
}

Split choose_split(const Problem& p, const Candidate& c, const GradientMachine& m, bool roughly) {
  Split best;
  for (int n = 1; can_be_direct(p, c, m, n); ++n) {
    const double cycles = direct_cycles(p, c, m, n);
    if (cycles < best.cycles) best = {std::vector<int>(c.sets.size(), n), true, cycles};
  }
  const double all = std::accumulate(c.set_cycles.begin(), c.set_cycles.end(), 0.0);
  for (int waves = 1; waves <= (c.shape.narrow() ? 0 : 4); ++waves) {
    // The tap sets share the blocks of `waves` waves by their length, rounded down.
    Split s;
    const double shares = double(waves) * m.multiprocessors / double(c.tiles);
    for (size_t i = 0; i < c.sets.size(); ++i)
      s.splits.push_back(int(std::clamp<int64_t>(int64_t(shares * c.set_cycles[i] / all), 1, c.set_boxes[i])));
    s.cycles = summed_cycles(p, c, m, s.splits, roughly);
    if (s.cycles < best.cycles) best = std::move(s);
  }
  return best;
}

}  // namespace cks::cuda::hopper::gradient

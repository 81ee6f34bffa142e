// What a way to do the whole problem costs, and into how many parts its sums had best be split.
#pragma once
#include <algorithm>
#include <limits>

#include "ops_cuda/hopper/gradient_taps.h"

namespace cks::cuda::hopper::gradient {

// Cycles of the product for one square and k-step, by itself or in a run.
double product_cycles(const GradientShape&, bool joined);

// Of all products of a team, `k_steps` those that a tap needs.
template <class F>
double team_cycles(const GradientShape& shape, const Group& team, F k_steps) {
  double all = 0;
  for_runs(shape, team, [&](std::span<const int> run) {
    double most = 0;
    for (const int tap : run)
      if (tap != kMissing) most = std::max(most, double(k_steps(tap)));
    all += most * double(run.size());
  });
  return all * product_cycles(shape, team.joined);
}

// A way to do the whole problem, and what it costs.
struct Candidate {
  const Frame* frame;
  Axes box;
  std::array<bool, 4> margins, exact;
  GradientShape shape;
  int tile_k, tile_c;
  Axes x_box;
  std::vector<TapSet> sets;
  std::vector<double> set_cycles = {};  // of one tile, all boxes
  std::vector<double> set_fill = {};    // cycles, until the first of them is there
  std::vector<int64_t> set_boxes = {};
  int max_parts = 0, stages = 0, stage_bytes = 0, float_stages = 0, float_stage_bytes = 0, beyond_bytes = 0;
  int64_t tiles = 0;
  double estimate = 0;
};

// How the boxes of each tap set are split among blocks.
struct Split {
  std::vector<int> splits;  // of each tap set
  bool direct = false;
  double cycles = std::numeric_limits<double>::infinity();
};

// What the boxes of a stage weigh on the way to shared memory, in bytes.
double load_bytes(const GradientOperands&, const Candidate&, size_t boxes_of_x);

// Until a block's first box is there, after the load's latency.
double fill_cycles(const GradientOperands&, const Candidate&, double bytes);

// Of a box; `products`: the cycles of its products.
double box_cycles(const GradientOperands&, const Candidate&, double products, double bytes);

// Of the passes that make halves of floats, before.
double conversion_cycles(const Problem&, const GradientOperands&);

// How much longer products take where teams have none.
double idle_teams(const TapSet&, int tile_k);

// Of the whole problem, where clusters with so many parts of every sum write dW, and where a second kernel adds up so
// many parts of each tap set's sums. `roughly`: items are not dealt to blocks one by one.
double direct_cycles(const Problem&, const Candidate&, const GradientMachine&, int splits);
double summed_cycles(const Problem&, const Candidate&, const GradientMachine&, const std::vector<int>& splits,
                     bool roughly);
Split choose_split(const Problem&, const Candidate&, const GradientMachine&, bool roughly);

}  // namespace cks::cuda::hopper::gradient

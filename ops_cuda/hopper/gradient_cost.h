// What a way to do the whole problem costs, and into how many parts its sums had best be split.
#pragma once
#include <limits>

#include "ops_cuda/hopper/gradient_taps.h"

namespace cks::cuda::hopper::gradient {

// Cycles of products: of 64 output channels, so many input channels and 16 pixels, by themselves or beside others.
double product_cycles(int width, bool joined);

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

// How the boxes of each tap set are split among blocks.
struct Split {
  std::vector<int> splits;  // of each tap set
  bool direct = false;
  double cycles = std::numeric_limits<double>::infinity();
};

// Of a box; `products`: the cycles of its products.
double box_cycles(const GradientOperands&, double products, double bytes, int stages, bool shared);

// How much longer products take where teams have none.
double idle_teams(const TapSet&, int tile_k);

// `roughly`: items are not dealt to blocks one by one.
Split choose_split(const Problem&, const Candidate&, const GradientMachine&, bool roughly);

}  // namespace cks::cuda::hopper::gradient

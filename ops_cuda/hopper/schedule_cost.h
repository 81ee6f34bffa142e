// What a configuration of the Hopper kernel costs in time, by a model that is fitted to an H200. Pure host code.
#pragma once
#include "ops_cuda/hopper/halved_input.h"
#include "ops_cuda/hopper/schedule.h"

namespace cks::cuda::hopper {

// What a k-block and a tile cost a block, in cycles; and of a tile that is cut, to leave a part of it, to add one that
// another block has left, and how long after its last k-block that is there to be added. The constants make the model
// choose, over the layers that benchmarks/hopper_sweep times on an H200 in fp16, TF32 and strict fp32, configurations
// as near the fastest as it can (docs/notebook.md).
struct Cost {
  double k_block, tile;
  double leave, add, delay;
  double last_tile, start;
};

// What making halves of X takes before the kernel can begin, of which its start hides nothing.
double cycles_to_halve(const HalvedInput&);

// What a k-block takes from global memory. more_patches: that begin for it, beside one for each block of channels.
struct Fetched {
  double pixel_bytes, filter_bytes, more_patches;
};

// stages: of a ring that the filter goes through; none where it stays.
Cost cost_of(const Config&, const Operands&, const Fetched&, std::optional<int> stages, int busy_blocks,
             const Machine&);

}  // namespace cks::cuda::hopper

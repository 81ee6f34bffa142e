// The arguments of the Hopper weight gradient's kernels, and where to find them.
#pragma once
#include <cuda.h>
#include <vector_types.h>

#include "ops_cuda/device_plan.h"
#include "ops_cuda/hopper/gradient_schedule.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda::hopper {

// The ring that boxes of floats are copied to, where blocks convert them; offsets from the operands' ring.
struct FloatRing {
  int stages, stage_bytes, at, scales_at;
  int a_bytes, b_bytes;    // of a box in shared memory
  int a_pixels, b_pixels;  // of a box
};

struct GradientParams {
  CUtensorMap dy, x;
  const GradientItem* items;
  const GradientPlace* places;
  const uint32_t* masks;                     // [place][square]
  const GradientSlot* slots;                 // [tap set][square]
  const GradientPlace* parts;                // [tap set][max_parts]
  const int32_t* num_parts;                  // [tap set]
  float4* partials;                          // squares, in accumulator order
  void* dw;                                  // where the sums go at once, if `direct`
  const int32_t *k_exponents, *c_exponents;  // of scaled floats; null: no scale
  int direct, dw_is_float;
  int K, C, taps;
  Int3 stride;
  int images_inner, box_images;  // how many images a box has
  GradientShape shape;           // of a team's squares,
  int team_squares, squares;     // so many, and of all teams
  int k_squares, c_squares;      // of dW
  int tile_k, tile_c, max_parts;
  int stages, stage_bytes;
  int a_bytes, b_bytes;     // of a box in shared memory
  int a_copied, b_copied;   // what a copy of it moves
  int a_plane, b_plane;     // from a stage's first half of an operand to the second, in bytes
  int dy_plane, x_plane;    // likewise in the tensors, in channels
  uint32_t high_a, high_b;  // of descriptors
  FloatRing floats;
  // Of direct blocks (others: one of each): the tap sets of a cluster and the parts of a sum; the tap sets' taps, one
  // set after the other (where each begins, and the last ends); their shared memory, as GradientRowSpace has it.
  int sets, cluster_splits;
  int16_t set_first[kMaxGradientCluster + 1], tap_of[kMaxClusterTaps];
  int rows_at, row_bytes, row_channels, rows_at_once, tables_at;
  uint32_t steps[kMaxSteps];  // where a k-step begins in the boxes of dY (low half) and X, in 16 bytes
};

// __global__ functions of one GradientParams, a block for each item.
// The producer is a warpgroup too, so that it can leave its registers to the others.
inline constexpr int kGradientConverterWarps = 3;  // beside the warp that copies
inline constexpr int kGradientMathThreads = kGradientTeams * 128, kGradientBlockThreads = kGradientMathThreads + 128;
const void* half_gradient(int planes);
const void* float_gradient(int planes);
const void* bfloat16_gradient();

GradientMachine current_gradient_machine();
GradientOperands gradient_operands(DataType, Precision);

// The weight gradient as this schedule has it, on the current device.
std::unique_ptr<WeightGradientKernel> make_scheduled_gradient(const Problem&, DataType, Precision,
                                                              const GradientSchedule&);

}  // namespace cks::cuda::hopper

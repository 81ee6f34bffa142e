// What follows the sum, in every kernel: y = activation(sum + bias + residual), rounded once.
#pragma once
#include "plan/problem.h"

namespace cks::cuda {

struct Epilogue {
  const void* bias;      // K elements, or null
  const void* residual;  // laid out as y, or null
  void* y;
  ActivationKind kind;
  float alpha, beta;
  float residual_slope;  // of the residual's negative values, before it is added
  const float* slopes;   // of PRelu, else null; a whole number of kSlopeGroups
};

// Kernels may read the slopes of a whole tile, channels that it has too many included.
inline constexpr int kSlopeGroup = 256;

}  // namespace cks::cuda

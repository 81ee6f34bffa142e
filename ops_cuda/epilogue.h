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
};

}  // namespace cks::cuda

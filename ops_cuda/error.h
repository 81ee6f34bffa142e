// CUDA errors as sentences.
#pragma once
#include <cuda_runtime_api.h>

#include <string>

#include "plan/problem.h"

namespace cks::cuda {

// `doing` completes "CUDA failed while ...". The sticky error is cleared, so that the next caller does not see ours.
inline void check(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(std::string("CUDA failed while ") + doing + ": " + cudaGetErrorString(status));
}

}  // namespace cks::cuda

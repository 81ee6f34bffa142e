// Leave for a kernel to use all the shared memory of a multiprocessor.
#pragma once
#include "ops_cuda/error.h"

namespace cks::cuda {

// Bytes that a block may use on the current device, where it has leave to.
inline int most_shared_bytes() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "looking for a GPU");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking what the GPU is");
  return bytes;
}

// Asked for once and for all: a limit of one convolution would bind others, already planned, of the same kernel.
inline void allow_all_shared_memory(const void* function) {
  constexpr const char* kAsking = "giving a kernel shared memory";
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, function), kAsking);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             most_shared_bytes() - int(attributes.sharedSizeBytes)),
        kAsking);
}

}  // namespace cks::cuda

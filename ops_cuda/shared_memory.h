// Leave for a kernel to use all the shared memory of a multiprocessor.
#pragma once
#include "ops_cuda/error.h"

namespace cks::cuda {

// Asked for once and for all: a limit of one convolution would bind others, already planned, of the same kernel.
inline void allow_all_shared_memory(const void* function) {
  constexpr const char* kAsking = "giving a kernel shared memory";
  int device = 0, bytes = 0;
  cudaFuncAttributes attributes;
  check(cudaGetDevice(&device), kAsking);
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), kAsking);
  check(cudaFuncGetAttributes(&attributes, function), kAsking);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             bytes - int(attributes.sharedSizeBytes)),
        kAsking);
}

}  // namespace cks::cuda

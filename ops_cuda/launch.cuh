// Launches that report their own status: after <<<>>>, cudaGetLastError would also return what someone else left
// behind.
#pragma once
#include <cuda_runtime.h>

#include "ops_cuda/error.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda {

template <class... Parameters, class... Arguments>
void launch_with_shared(const char* doing, void (*kernel)(Parameters...), dim3 grid, dim3 threads, int shared_bytes,
                        cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.stream = stream;
  config.dynamicSmemBytes = size_t(shared_bytes);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), doing);
}

// Of a kernel that calls launch_dependents, and wait_for_previous_grid before it reads or writes what others may write
// or read: what a launch and a start take disappears behind the kernel before it, where the device knows how.
// `cluster`: its blocks, on devices that have clusters. `knows`: whether the device knows how.
inline void launch_dependent_if(bool knows, const char* doing, const void* kernel, dim3 grid, dim3 threads,
                                int shared_bytes, cudaStream_t stream, void** parameters, dim3 cluster = dim3(1)) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster.x, cluster.y, cluster.z};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.stream = stream;
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.attrs = attributes;
  config.numAttrs = !knows ? 0 : cluster.x * cluster.y * cluster.z > 1 ? 2 : 1;
  check(cudaLaunchKernelExC(&config, kernel, parameters), doing);
}

// The same, of a kernel that other devices run too.
inline void launch_dependent(const char* doing, const void* kernel, dim3 grid, dim3 threads, int shared_bytes,
                             cudaStream_t stream, void** parameters, dim3 cluster = dim3(1)) {
  launch_dependent_if(current_device().capability >= 90, doing, kernel, grid, threads, shared_bytes, stream, parameters,
                      cluster);
}

template <class... Parameters>
void launch_dependent(const char* doing, void (*kernel)(Parameters...), dim3 grid, dim3 threads, cudaStream_t stream,
                      Parameters... arguments) {
  void* parameters[] = {&arguments...};
  launch_dependent(doing, reinterpret_cast<const void*>(kernel), grid, threads, 0, stream, parameters);
}

template <class... Parameters, class... Arguments>
void launch(const char* doing, void (*kernel)(Parameters...), dim3 grid, dim3 threads, cudaStream_t stream,
            const Arguments&... arguments) {
  launch_with_shared(doing, kernel, grid, threads, 0, stream, arguments...);
}

}  // namespace cks::cuda

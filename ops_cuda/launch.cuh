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
inline void launch_dependent(const char* doing, const void* kernel, dim3 grid, dim3 threads, int shared_bytes,
                             cudaStream_t stream, void** parameters) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.stream = stream;
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.attrs = &attribute, config.numAttrs = current_device().capability >= 90 ? 1 : 0;
  check(cudaLaunchKernelExC(&config, kernel, parameters), doing);
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

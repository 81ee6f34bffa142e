// Launches that report their own status: after <<<>>>, cudaGetLastError would also return what someone else left
// behind.
#pragma once
#include <cuda_runtime.h>

#include "ops_cuda/error.h"

namespace cks::cuda {

template <class... Parameters, class... Arguments>
void launch_with_shared(const char* doing, void (*kernel)(Parameters...), dim3 grid, dim3 threads, int shared_bytes,
                        cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = threads, config.stream = stream;
  config.dynamicSmemBytes = size_t(shared_bytes);
  check(cudaLaunchKernelEx(&config, kernel, arguments...), doing);
}

template <class... Parameters, class... Arguments>
void launch(const char* doing, void (*kernel)(Parameters...), dim3 grid, dim3 threads, cudaStream_t stream,
            const Arguments&... arguments) {
  launch_with_shared(doing, kernel, grid, threads, 0, stream, arguments...);
}

}  // namespace cks::cuda

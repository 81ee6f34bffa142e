#include "ops_cuda/hopper/gradient_kernel.cuh"

const void* cks::cuda::hopper::float_gradient(int planes) {
  return planes == 1 ? reinterpret_cast<const void*>(&hopper_gradient<__half, 1, true>)
                     : reinterpret_cast<const void*>(&hopper_gradient<__half, 2, true>);
}

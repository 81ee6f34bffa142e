#include "ops_cuda/hopper/gradient_kernel.cuh"

const void* cks::cuda::hopper::bfloat16_gradient() {
  return reinterpret_cast<const void*>(&hopper_gradient<__nv_bfloat16, 1, false>);
}

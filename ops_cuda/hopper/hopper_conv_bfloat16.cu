#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::bfloat16_kernel(int shape) { return kernel_of<__nv_bfloat16>(shape); }

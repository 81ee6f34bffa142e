#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::bfloat16_kernel(int shape) { return kernel_of<BFloat16Math>(shape); }

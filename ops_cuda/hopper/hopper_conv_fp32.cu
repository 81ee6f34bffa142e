#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::fp32_kernel(int shape) { return kernel_of<FP32Math>(shape); }

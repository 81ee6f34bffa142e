#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::tf32_kernel(int shape) { return kernel_of<TF32Math>(shape); }

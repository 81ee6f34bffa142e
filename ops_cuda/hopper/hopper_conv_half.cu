#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::half_kernel(int shape) { return kernel_of<HalfMath>(shape); }

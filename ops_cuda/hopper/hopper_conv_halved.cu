#include "ops_cuda/hopper/kernels.cuh"

const void* cks::cuda::hopper::halved_kernel(int shape) { return kernel_of<HalvedMath>(shape); }

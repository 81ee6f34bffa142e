#include "ops_cuda/portable_conv.cuh"

cks::cuda::PortableKernel cks::cuda::float_fma_kernel(int shape) {
  return portable_kernel<Fma<float>>(shape, "implicit GEMM, fp32 fma");
}

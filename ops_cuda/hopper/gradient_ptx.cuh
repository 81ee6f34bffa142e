// Named one-liners that only the weight gradient uses, beside those of ptx.cuh.
#pragma once
#include "ops_cuda/hopper/ptx.cuh"

namespace cks::cuda::hopper {

__device__ inline void store_element(uint32_t address, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}
template <class Half>
__device__ void store_element(uint32_t address, Half v) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(*reinterpret_cast<const uint16_t*>(&v)) : "memory");
}
template <class Out>
__device__ Out load_element(uint32_t address) {
  if constexpr (sizeof(Out) == 4) {
    Out v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address));
    return v;
  } else {
    uint16_t v;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(v) : "r"(address));
    return *reinterpret_cast<Out*>(&v);
  }
}

}  // namespace cks::cuda::hopper

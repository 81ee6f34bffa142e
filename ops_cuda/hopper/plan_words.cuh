// How a warp reads the plan ahead.
#pragma once
#include <cuda_runtime.h>

namespace cks::cuda::hopper {

// 16 bytes of the plan, which no kernel writes; of them four integers T, as a lane has them.
//
// The compiler knows what is the same in all lanes and wants it in uniform registers, which copies and multiplications
// take their coordinates from: it would wait for a load that all lanes share wherever that stands. So each lane loads
// something of its own, early, and whoever needs it asks for it late.
using PlanWords = int4;
template <class T>
__device__ PlanWords read_plan(const T* from) {
  return __ldg(reinterpret_cast<const PlanWords*>(from));
}
template <class T>
__device__ T from_lane(const PlanWords& words, int lane) {
  static_assert(sizeof(T) == sizeof(PlanWords));
  const auto get = [&](int word) { return __shfl_sync(0xffffffff, word, lane); };
  const PlanWords all{get(words.x), get(words.y), get(words.z), get(words.w)};
  return *reinterpret_cast<const T*>(&all);
}

}  // namespace cks::cuda::hopper

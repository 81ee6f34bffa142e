// A ring of shared memory slots between copies from global memory and products: copies run kStages - 1 slots ahead.
#pragma once
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {

// A thread's share of filling a slot, kCount chunks of 16 bytes. From sm_80 a chunk goes straight into shared memory;
// before, it waits in registers from fetch until land, while the products of another slot cover the latency.
template <int kCount>
class ChunkCopies {
 public:
  // An invalid chunk is zeros; `anywhere` is some address that may be read.
  __device__ void fetch(int i, uint32_t shared, const void* source, bool valid, const void* anywhere) {
#if CKS_HAS_ASYNC_COPY
    ptx::copy_chunk_async(shared, valid ? source : anywhere, valid);
#else
    held_[i] = valid ? __ldg(static_cast<const uint4*>(source)) : make_uint4(0, 0, 0, 0);
#endif
  }
  __device__ void land(int i, uint32_t shared) {
#if !CKS_HAS_ASYNC_COPY
    ptx::store_words(shared, held_[i]);
#endif
  }

#if !CKS_HAS_ASYNC_COPY
 private:
  uint4 held_[kCount];
#endif
};

// loader.fetch(slot), loader.land(slot): the next block of operands, past the last zeros or nothing; multiply(slot) is
// called once a block. On return no copy is under way, but other warps may still be reading slots.
template <int kStages, int kSlotBytes, class Loader, class Multiply>
__device__ void run_pipeline(Loader& loader, uint32_t slots, int num_blocks, Multiply multiply) {
  const auto fetch = [&](int slot) {
    loader.fetch(slots + slot * kSlotBytes);
#if CKS_HAS_ASYNC_COPY
    ptx::commit_copies();
#endif
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    fetch(i);
    loader.land(slots + i * kSlotBytes);
  }
  int full = 0, empty = kStages - 1;  // the slots to multiply and to fill next
  for (int block = 0; block < num_blocks; ++block) {
#if CKS_HAS_ASYNC_COPY
    ptx::wait_for_copies<kStages - 2>();
#endif
    __syncthreads();  // the block has arrived, and all warps have left the slot to fill
    fetch(empty);
    multiply(slots + full * kSlotBytes);
    loader.land(slots + empty * kSlotBytes);
    full = full + 1 == kStages ? 0 : full + 1;
    empty = empty + 1 == kStages ? 0 : empty + 1;
  }
#if CKS_HAS_ASYNC_COPY
  ptx::wait_for_copies<0>();
#endif
}

}  // namespace cks::cuda

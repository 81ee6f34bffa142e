// Named one-liners for the sm_90 instructions that the kernel uses: mbarriers, clusters, bulk tensor copies (wgmma.cuh
// has the rest). Addresses are 32-bit shared-memory addresses.
#pragma once
#include <cuda.h>

#include <cstdint>

#include "ops_cuda/ptx.cuh"

namespace cks::cuda::hopper {

using ptx::launch_dependents;
using ptx::load_matrices;
using ptx::shared_address;
using ptx::wait_for_previous_grid;

// ---------------------------------------------------------------- mbarriers
__device__ inline void barrier_init(uint64_t& bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&bar)), "r"(arrivals) : "memory");
}
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void barrier_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ inline void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ inline void barrier_wait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nW: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D;\nbra W;\nD:\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}

// ---------------------------------------------------------------- clusters
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Of all threads of the cluster's blocks. What they have written is not ordered by it but for barriers, by the fence
// above.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The same at once; but what has been written is seen by all afterwards.
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline uint32_t peer_address(uint32_t address, uint32_t rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}
__device__ inline float load_peer_float(uint32_t peer_address) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(peer_address) : "memory");
  return v;
}
// A release at the scope of the cluster would wait for all that the thread has written to global memory.
__device__ inline void barrier_arrive_peer(uint32_t peer_bar) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(peer_bar) : "memory");
}
// To a peer's shared memory; its barrier counts the bytes when they have arrived.
__device__ inline void store_to_peer(uint32_t peer_address, float4 v, uint32_t peer_bar) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(peer_address),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(peer_bar)
      : "memory");
}

// ---------------------------------------------------------------- global memory
// One more, after what this thread knows to be written.
__device__ inline void count_release(unsigned* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ inline unsigned load_acquire(const unsigned* from) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}

// ---------------------------------------------------------------- shared memory
__device__ inline void store_shared(uint32_t address, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" ::"r"(address), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}
__device__ inline void store_shared(uint32_t address, float2 v) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(address), "f"(v.x), "f"(v.y) : "memory");
}
__device__ inline void store_shared(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
__device__ inline float load_shared_float(uint32_t address) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}
__device__ inline float4 load_shared(uint32_t address) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ inline float2 load_shared_pair(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}
__device__ inline void store_matrices(uint32_t address, const uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v[0]), "r"(v[1]),
               "r"(v[2]), "r"(v[3])
               : "memory");
}
// What ordinary stores wrote to shared memory becomes visible to bulk copies; or what is known of any memory.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void fence_async_proxy_everywhere() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ inline void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// One of the threads that the others of a named barrier wait for, without waiting itself.
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Whether any of the threads says so.
__device__ inline bool named_barrier_or(int id, int threads, bool says) {
  int any;
  asm volatile("{\n.reg .pred p, q;\nsetp.ne.b32 p, %1, 0;\nbarrier.red.or.pred q, %2, %3, p;\nselp.b32 %0, 1, 0, q;\n}"
               : "=r"(any)
               : "r"(int(says)), "r"(id), "r"(threads)
               : "memory");
  return any;
}

// ---------------------------------------------------------------- bulk tensor copies
// Coordinates are signed; what lies outside the tensor reads zero and is not written.
struct Coordinates {
  int c, w, h, d, n;
};
__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ inline void copy_box(uint32_t to, const CUtensorMap* map, uint32_t bar, Coordinates at) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6,%7}], "
      "[%2];" ::"r"(to),
      "l"(map), "r"(bar), "r"(at.c), "r"(at.w), "r"(at.h), "r"(at.d), "r"(at.n)
      : "memory");
}
// To the same place in the blocks of a cluster whose bits are set; the barrier of each counts its bytes.
__device__ inline void copy_box_to_all(uint32_t to, const CUtensorMap* map, uint32_t bar, Coordinates at,
                                       uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%3,%4,%5,%6,%7}], [%2], %8;" ::"r"(to),
      "l"(map), "r"(bar), "r"(at.c), "r"(at.w), "r"(at.h), "r"(at.d), "r"(at.n), "h"(blocks)
      : "memory");
}
// In im2col mode: from a base pixel on, each w and h away from its own.
struct BasePixel {
  int c, w, h, n;
};
__device__ inline void copy_run(uint32_t to, const CUtensorMap* map, uint32_t bar, BasePixel at, int w, int h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5,%6}], "
      "[%2], {%7,%8};" ::"r"(to),
      "l"(map), "r"(bar), "r"(at.c), "r"(at.w), "r"(at.h), "r"(at.n), "h"(uint16_t(w)), "h"(uint16_t(h))
      : "memory");
}
__device__ inline void copy_run_to_all(uint32_t to, const CUtensorMap* map, uint32_t bar, BasePixel at, int w, int h,
                                       uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3,%4,%5,%6}], [%2], {%7,%8}, %9;" ::"r"(to),
      "l"(map), "r"(bar), "r"(at.c), "r"(at.w), "r"(at.h), "r"(at.n), "h"(uint16_t(w)), "h"(uint16_t(h)), "h"(blocks)
      : "memory");
}
__device__ inline void copy_filter(uint32_t to, const CUtensorMap* map, uint32_t bar, int c, int k, int tap) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3,%4,%5}], [%2];" ::"r"(
          to),
      "l"(map), "r"(bar), "r"(c), "r"(k), "r"(tap)
      : "memory");
}
__device__ inline void store_box(const CUtensorMap* map, uint32_t from, Coordinates at) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2,%3,%4,%5,%6}], [%1];" ::"l"(map),
               "r"(from), "r"(at.c), "r"(at.w), "r"(at.h), "r"(at.d), "r"(at.n)
               : "memory");
}
// Bytes in a row, without a map.
__device__ inline void copy_from_global(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(bar)
               : "memory");
}
__device__ inline void copy_to_global(void* to, uint32_t from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all stores but the last kPending have read shared memory; that they have reached global memory is the end of
// the grid's business.
template <int kPending>
__device__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// Until all stores are in global memory, as far as this thread is concerned.
__device__ inline void store_wait_written() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// ---------------------------------------------------------------- warps
// True for one lane of the warp: the compiler knows that it is one.
__device__ inline bool elect_lane() {
  int elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected;
}

// ---------------------------------------------------------------- arithmetic
// NaN where either is: one instruction, where comparisons take two.
__device__ inline float max_or_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
// The same of both elements of a word.
__device__ inline uint32_t max_or_nan(uint32_t a, uint32_t b, __half*) {
  uint32_t r;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
__device__ inline uint32_t max_or_nan(uint32_t a, uint32_t b, __nv_bfloat16*) {
  uint32_t r;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

// ---------------------------------------------------------------- registers
// All warps of a warpgroup together.
template <int kCount>
__device__ void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace cks::cuda::hopper

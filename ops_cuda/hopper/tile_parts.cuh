// Tiles whose sum is in parts, which blocks leave for the one that stores the tile.
//
// A part travels through global memory in accumulator order, and through rings that are there anyway: who leaves it
// stages it as if it were finished slabs, and its storer sends them; who stores the tile copies it to the ring of
// k-blocks, behind the last k-block of its own. So the warps that multiply wait for no memory. The counter of the tile
// says how many parts have arrived; who stores the tile leaves it at zero for the next launch.
//
// Who stores waits for others, but only for blocks that come before it in the grid, and those leave their parts before
// they wait (schedule.h). The hardware begins blocks in their order, which CUDA does not promise and others count on
// too (decoupled look-back), so that whoever is waited for is running.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

template <class Tile>
class TileParts {
  using Barriers = typename Tile::Barriers;
  using Accumulators = typename Tile::Accumulators;
  // Four accumulators of every thread: what one vector access of each moves.
  static constexpr int kGroupBytes = Tile::kTeamThreads * int(sizeof(float4)), kGroupsOfRow = Tile::BN / 8,
                       kGroups = Tile::kRowBlocks * kGroupsOfRow;
  static constexpr int kBytes = kGroups * kGroupBytes, kSlabBytes = Tile::BM * Tile::kSlabBytes,
                       kGroupsOfSlab = kSlabBytes / kGroupBytes;
  // What a stage of the ring holds.
  static constexpr int largest_share(int groups) {
    int share = kGroups;
    while (share > 1 && share > groups) share /= 2;
    return share;
  }
  static constexpr int kGroupsOfStage = largest_share(Tile::kStageBytes / kGroupBytes),
                       kStages = kGroups / kGroupsOfStage;

 public:
  static constexpr int kSlabs = kGroups / kGroupsOfSlab;
  static_assert(!Tile::kCanBeCut ||
                (kSlabs * kGroupsOfSlab == kGroups && kGroupsOfStage * kGroupBytes <= Tile::kStageBytes));

  // By the math warps: what they have summed goes to the ring of slabs.
  static __device__ void leave(const Accumulators& acc, uint32_t stages, const Barriers& bars, PipelineState& at) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      const uint32_t to = stages + at.stage * kSlabBytes + threadIdx.x * sizeof(float4);
      barrier_wait(shared_address(&bars.ready[0][at.stage]), at.parity);
#pragma unroll
      for (int i = 0; i < kGroupsOfSlab; ++i) {
        const int group = slab * kGroupsOfSlab + i;
        const float* const v = &acc[group / kGroupsOfRow][group % kGroupsOfRow * 4];
        store_shared(to + i * kGroupBytes, make_float4(v[0], v[1], v[2], v[3]));
      }
      fence_async_proxy();
      __syncwarp();
      if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(&bars.staged[0][at.stage]));
      at.advance(Tile::kStaged);
    }
  }

  // By the storer's first lane: a slab of a part.
  static __device__ void send(const Params& p, const WorkItem::Part& part, int slab, uint32_t from) {
    copy_to_global(address(p, part.slot) + slab * kSlabBytes, from, kSlabBytes);
  }
  // The same, once it has sent all of them.
  static __device__ void tell(const Params& p, const WorkItem::Part& part) {
    store_wait_written();
    count_release(p.counters + part.counter);
  }

  // By the warp that copies: the other parts of a tile. What `copies` is true for is the lane that copies.
  static __device__ PipelineState fetch(const Params& p, const WorkItem::Part& part, int others, uint32_t tiles,
                                        const Barriers& bars, PipelineState at, bool copies) {
    if (copies) {
      unsigned* const counter = p.counters + part.counter;
      while (int(load_acquire(counter)) < others) {
      }
      *counter = 0;
      fence_async_proxy_everywhere();
    }
    __syncwarp();
    const char* from = address(p, part.slot);
#pragma unroll 1
    for (int i = 0; i < others * kStages; ++i, from += kGroupsOfStage * kGroupBytes) {
      const uint32_t full = shared_address(&bars.full[at.stage]);
      barrier_wait(shared_address(&bars.empty[at.stage]), at.parity ^ 1);
      if (copies) {
        barrier_expect(full, kGroupsOfStage * kGroupBytes);
        copy_from_global(tiles + at.stage * Tile::kStageBytes, from, kGroupsOfStage * kGroupBytes, full);
      }
      at.advance(p.stages);
    }
    return at;
  }

  // By the math warps: in the order of the parts, behind their own sums.
  template <class Ring>
  static __device__ void add_others(Ring& ring, uint32_t tiles, int others, Accumulators& acc) {
#pragma unroll 1
    for (int other = 0; other < others; ++other) {
#pragma unroll
      for (int stage = 0; stage < kStages; ++stage) {
        ring.wait();
        const uint32_t from = tiles + ring.offset() + threadIdx.x * sizeof(float4);
#pragma unroll
        for (int i = 0; i < kGroupsOfStage; ++i) {
          const int group = stage * kGroupsOfStage + i;
          float* const sum = &acc[group / kGroupsOfRow][group % kGroupsOfRow * 4];
          const float4 v = load_shared(from + i * kGroupBytes);
          sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
        }
        __syncwarp();
        ring.release(0);
        ring.advance();
      }
    }
  }

 private:
  static __device__ char* address(const Params& p, int slot) { return p.partials + int64_t(slot) * kBytes; }
};

}  // namespace cks::cuda::hopper

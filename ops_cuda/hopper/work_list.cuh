// How the warps of a block go through its work: the items of its list, and the buffers of a ring.
#pragma once
#include <cstddef>

#include "ops_cuda/hopper/hopper_conv.h"
#include "ops_cuda/hopper/plan_words.cuh"

namespace cks::cuda::hopper {

// A block's work items in order, for all lanes of a warp together: before the first until next() is called.
class WorkReader {
 public:
  explicit __device__ WorkReader(const Params& p) : next_(p.items + blockIdx.x) { fetch(); }

  // False past the last item. What comes next must have been fetched.
  __device__ bool next() {
    words_ = coming_;
    sum_ = get<WorkItem::Sum>(offsetof(WorkItem, sum));
    return !at_end();
  }
  // Has the item after this one come, while nobody waits.
  __device__ void fetch_next() {
    if (at_end()) return;
    next_ += gridDim.x;
    fetch();
  }
  __device__ bool at_end() const { return sum_.parts == WorkItem::kEnd; }
  __device__ const WorkItem::Sum& sum() const { return sum_; }
  __device__ WorkItem::Input input() const { return get<WorkItem::Input>(offsetof(WorkItem, input)); }
  __device__ WorkItem::Output output() const { return get<WorkItem::Output>(offsetof(WorkItem, output)); }
  __device__ WorkItem::Part part() const { return get<WorkItem::Part>(offsetof(WorkItem, part)); }
  __device__ WorkItem::Patches patches() const { return get<WorkItem::Patches>(offsetof(WorkItem, patches)); }
  __device__ WorkItem::Start start() const { return get<WorkItem::Start>(offsetof(WorkItem, start)); }

 private:
  __device__ void fetch() {
    const int lane = threadIdx.x % 32, last = sizeof(WorkItem) / sizeof(PlanWords) - 1;
    coming_ = read_plan(reinterpret_cast<const PlanWords*>(next_) + min(lane, last));
  }
  template <class T>
  __device__ T get(size_t offset) const {
    return from_lane<T>(words_, int(offset / sizeof(PlanWords)));
  }

  const WorkItem* next_;
  PlanWords words_, coming_;
  WorkItem::Sum sum_{};
};

// Taps that follow each other in the plan, for all lanes of a warp together: so many of them at once.
class TapReader {
 public:
  using Tap = WorkItem::Start;
  explicit __device__ TapReader(const WorkTap* first) : first_(first) { fetch(); }
  __device__ Tap read(int t) {
    if (t / kTapsAtOnce != page_) page_ = t / kTapsAtOnce, fetch();
    return from_lane<Tap>(words_, t % kTapsAtOnce);
  }

 private:
  // Behind the last tap something is left to be read (and not used).
  __device__ void fetch() { words_ = read_plan(first_ + page_ * kTapsAtOnce + threadIdx.x % kTapsAtOnce); }

  const WorkTap* first_;
  int page_ = 0;
  PlanWords words_;
};

// A block of channels of the input, as copies name it: of x or, behind its last, of x2.
template <int BK>
struct ChannelBlock {
  const CUtensorMap* map;
  int c;
  __device__ ChannelBlock(const Params& p, int block)
      : map(block < p.x_blocks ? &p.x : &p.x2), c((block < p.x_blocks ? block : block - p.x_blocks) * BK) {}
};

// A position in a ring of buffers.
struct PipelineState {
  int stage = 0, parity = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
  // The position `count` buffers on, at most as many as there are.
  __device__ PipelineState ahead(int stages, int count) const {
    const bool wraps = stage + count >= stages;
    return {stage + count - (wraps ? stages : 0), parity ^ int(wraps)};
  }
  __device__ void skip(int stages, int count) {
    const int laps = (stage + count) / stages;
    stage += count - laps * stages;
    parity ^= laps & 1;
  }
};

}  // namespace cks::cuda::hopper

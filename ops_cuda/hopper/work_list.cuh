// How the warps of a block go through its work: the items of its list, and the buffers of a ring.
#pragma once
#include "ops_cuda/hopper/hopper_conv.h"

namespace cks::cuda::hopper {

// 16 bytes of the plan, which no kernel writes. Every lane reads the same, so that the compiler may keep it in uniform
// registers, which copies and multiplications take their coordinates from.
template <class T>
__device__ T read_plan(const T* from) {
  static_assert(sizeof(T) == 16);
  const int4 words = __ldg(reinterpret_cast<const int4*>(from));
  return *reinterpret_cast<const T*>(&words);
}

// A block's work items in order; what one is about is fetched while the one before it is worked on. (What a role does
// not ask for, the compiler does not fetch.)
class WorkReader {
 public:
  explicit __device__ WorkReader(const Params& p) : next_(p.items + blockIdx.x) { fetch(); }
  struct Place {
    WorkItem::Sum sum;
    WorkItem::Input input;
    WorkItem::Output output;
  };

  // False past the last item.
  __device__ bool next() {
    sum_ = coming_sum_, input_ = coming_input_, output_ = coming_output_, part_ = coming_part_, start_ = coming_start_;
    item_ = next_;
    if (coming_sum_.parts == WorkItem::kEnd) return false;
    next_ += gridDim.x;
    fetch();
    return true;
  }
  __device__ const WorkItem::Sum& sum() const { return sum_; }
  __device__ const WorkItem::Input& input() const { return input_; }
  __device__ const WorkItem::Output& output() const { return output_; }
  __device__ const WorkItem::Part& part() const { return part_; }
  __device__ const WorkItem::Start& start() const { return start_; }
  // For what few tiles ask for: read now.
  __device__ Place read_place() const { return {sum_, read_plan(&item_->input), read_plan(&item_->output)}; }
  __device__ WorkItem::Part read_part() const { return read_plan(&item_->part); }

 private:
  __device__ void fetch() {
    coming_sum_ = read_plan(&next_->sum);
    coming_input_ = read_plan(&next_->input), coming_output_ = read_plan(&next_->output);
    coming_part_ = read_plan(&next_->part), coming_start_ = read_plan(&next_->start);
  }
  const WorkItem *next_, *item_ = nullptr;
  WorkItem::Sum sum_{}, coming_sum_;
  WorkItem::Input input_{}, coming_input_;
  WorkItem::Output output_{}, coming_output_;
  WorkItem::Part part_{}, coming_part_;
  WorkItem::Start start_{}, coming_start_;
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

// few_inputs_steps.cuh with Hopper's wgmma, for 16-bit elements: both operands are read by the tensor cores themselves,
// from shared memory, in rows of 32 bytes. A patch is kept as planes of two chunks of channels each, where eight pixels
// in a row are what the tensor cores read at once, wherever they begin, because the swizzle of rows depends on
// addresses alone: so a tap is an offset here too.
#pragma once
#include "ops_cuda/few_inputs_tiles.cuh"
#include "ops_cuda/hopper/wgmma.cuh"

namespace cks::cuda {

template <class Math, int kColumns>
class FewInputsWgmma : public FewInputsBlock<Math, kColumns, kFewInputsWgmma.warps, kFewInputsWgmma.row_tiles, 4> {
  using Base = FewInputsBlock<Math, kColumns, kFewInputsWgmma.warps, kFewInputsWgmma.row_tiles, 4>;
  using Base::args_, Base::sum_;
  using typename Base::T;
  static constexpr int kRowTiles = kFewInputsWgmma.row_tiles;

 public:
  using Base::kThreads;
  using typename Base::Tile;

  __device__ FewInputsWgmma(const FewInputsArgs& args, char* shared)
      : Base(args, shared),
        filter_(ptx::shared_address(shared)),
        patch_(filter_ + args.steps * kColumns * 32 + team() * args.patches * args.patch_words * 4) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) base_[i] = this->in_patch(this->warp_row(i) / 64 * 64) * int(sizeof(T));
  }

  __device__ void start_filter() {
    Base::start_filter(filter_, [](int row, int chunk) { return chunk_by_row<32>(row, chunk); });
  }
  __device__ static void clear_padding() {}  // whole steps have none
  // Of a team.
  __device__ static void synchronize() { hopper::named_barrier(1 + team(), kThreads); }

  // Starts to copy one of two patches.
  __device__ void start_patch(int which, const Tile& tile) {
    this->template start_parts<kChunkBytes, true>(patch(which), tile);
  }
  __device__ static void wait_for_copies() {
    ptx::wait_for_all_copies();
    hopper::fence_async_proxy();
  }

  __device__ static void prepare_patch(int) {}

  __device__ void multiply(int which) {
    uint32_t a[kRowTiles], b = this->known(hopper::descriptor_low(filter_));
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) a[i] = this->known(hopper::descriptor_low(patch(which) + base_[i]));
#pragma unroll 2
    for (int step = 0; step < args_.steps; ++step) {
      hopper::wgmma_fence();
      const uint32_t tap = args_.step[step].patch & 0xffff;
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
        hopper::wgmma<T, kColumns>(sums(i), hopper::descriptor<32>(a[i] + tap, uint32_t(args_.matrix_pitch)),
                                   hopper::descriptor<32>(b), step > 0);
      hopper::wgmma_commit();
      b += kColumns * 32 >> 4;
    }
    hopper::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) hopper::accumulators_changed(sums(i));
  }

 private:
  __device__ static int team() { return threadIdx.x / kThreads; }

  __device__ uint32_t patch(int which) const { return patch_ + which * args_.patch_words * 4; }
  using Sums = float[kColumns / 2];
  __device__ Sums& sums(int i) { return reinterpret_cast<Sums&>(sum_[i]); }

  uint32_t filter_;
  uint32_t patch_;
  uint32_t base_[kRowTiles];  // where the first row of each tile begins in the patch, in bytes
};

template <class Math, int kColumns>
__global__ void __launch_bounds__(128 * kFewInputsMostTeams)
    few_inputs_wgmma(const __grid_constant__ FewInputsArgs args) {
  extern __shared__ __align__(256) char shared[];  // a period of the swizzle
  ptx::launch_dependents();
  FewInputsWgmma<Math, kColumns> block(args, shared);
  run_few_inputs(block, args);
}

template <class Math>
const void* few_inputs_wgmma_kernel(int columns) {
  return columns == 64 ? reinterpret_cast<const void*>(&few_inputs_wgmma<Math, 64>)
                       : reinterpret_cast<const void*>(&few_inputs_wgmma<Math, 32>);
}

}  // namespace cks::cuda

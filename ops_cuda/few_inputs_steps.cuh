// Convolutions with few input channels (of a group), on tensor cores, where a tap's channels are whole steps of them
// (32 bytes). A thread block keeps the filter in shared memory for all its tiles and copies the patch of the next tile
// while it multiplies this one; fragments of both operands are read there by ldmatrix, a tap being an offset in the
// patch. So each input is loaded once a tile, however many taps it meets.
#pragma once
#include "ops_cuda/few_inputs_tiles.cuh"

namespace cks::cuda {

template <class Math, int kColumns, int kWarps, int kRowTiles>
class FewInputsSteps : public FewInputsBlock<Math, kColumns, kWarps, kRowTiles> {
  using Base = FewInputsBlock<Math, kColumns, kWarps, kRowTiles>;
  using Base::args_, Base::sum_, Base::kTiles;
  using typename Base::T;
  static constexpr int kStepBytes = 32 * kColumns;  // of the filter

 public:
  using Base::kThreads;
  using typename Base::Tile;
  static constexpr int kResident = kWarps == 8 ? 1 : kColumns == 64 ? 3 : 4;  // blocks of a multiprocessor

  __device__ FewInputsSteps(const FewInputsArgs& args, char* shared)
      : Base(args), filter_(ptx::shared_address(shared)), patch_(shared + args.steps * kStepBytes) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
      base_[i] = this->in_patch(this->warp_row(i) + lane % 16) * int(sizeof(T)) + lane / 16 * kChunkBytes;
  }

  __device__ void start_filter() {
    Base::start_filter(filter_, [](int row, int chunk) { return chunk_by_row<32>(row, chunk); });
  }

  __device__ static void synchronize() { __syncthreads(); }

  // Starts to copy one of two patches.
  __device__ void start_patch(int which, const Tile& tile) {
    char* const patch = patch_ + which * args_.patch_words * 4;
    if (args_.source == PatchSource::kChunks)
      this->template start_chunks<false>(ptx::shared_address(patch), tile);
    else
      this->template load_planes<false>(reinterpret_cast<uint32_t*>(patch), tile);
  }

  __device__ static void wait_for_copies() { ptx::wait_for_all_copies(); }

  __device__ void multiply(int which) {
    const uint32_t patch = ptx::shared_address(patch_ + which * args_.patch_words * 4);
    const int lane = threadIdx.x % 32;
    const uint32_t filter = filter_ + chunk_by_row<32>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    this->clear_sums();
    Operands now, coming;
    load(now, patch, filter, 0);
#pragma unroll 2
    for (int step = 0; step < args_.steps; ++step) {
      load(coming, patch, filter, min(step + 1, args_.steps - 1));  // the last one again, so that nothing branches
      multiply(now);
      now = coming;
    }
  }

 private:
  struct Operands {
    uint32_t a[kRowTiles][4], b[kTiles / 2][4];
  };

  __device__ void load(Operands& operands, uint32_t patch, uint32_t filter, int step) const {
    patch += args_.step[step].patch, filter += step * kStepBytes;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) ptx::load_matrices(operands.a[i], patch + base_[i]);
    // Moving down by 16 rows keeps the order of a row's chunks.
#pragma unroll
    for (int j = 0; j < kTiles / 2; ++j) ptx::load_matrices(operands.b[j], filter + j * 16 * 32);
  }

  __device__ void multiply(Operands& operands) {
    using A = Fragment<Math, 4>;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (uint32_t& v : operands.a[i]) v = Math::prepare(v);
      const A a(operands.a[i]);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const uint32_t (&pair)[4] = operands.b[j / 2];
        const Fragment<Math, 2> b({pair[j % 2 * 2], pair[j % 2 * 2 + 1]});
        cks::cuda::multiply(sum_[i][j], a, b);
      }
    }
  }

  uint32_t filter_;
  char* patch_;
  int base_[kRowTiles];  // where the lane's row of each tile begins in the patch, in bytes
};

template <class Math, int kColumns, int kWarps, int kRowTiles>
__global__ void __launch_bounds__(32 * kWarps, FewInputsSteps<Math, kColumns, kWarps, kRowTiles>::kResident)
    few_inputs_steps(const __grid_constant__ FewInputsArgs args) {
  extern __shared__ __align__(16) char shared[];
  ptx::launch_dependents();
  FewInputsSteps<Math, kColumns, kWarps, kRowTiles> block(args, shared);
  run_few_inputs(block, args);
}

}  // namespace cks::cuda

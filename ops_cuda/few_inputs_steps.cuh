// Convolutions with few input channels (of a group), on tensor cores, where a tap's channels are whole chunks of 16
// bytes, if padded: a step of the tensor cores takes two, of one tap or of two. A thread block keeps the filter in
// shared memory for all its tiles and copies the patch of the next tile while it multiplies this one; fragments of both
// operands are read there by ldmatrix, a chunk of a tap being an offset in the patch. So each input is loaded once a
// tile, however many taps it meets.
#pragma once
#include "ops_cuda/few_inputs_tiles.cuh"

namespace cks::cuda {

template <class Math, int kColumns, int kWarps, int kRowTiles>
class FewInputsSteps : public FewInputsBlock<Math, kColumns, kWarps, kRowTiles> {
  using Base = FewInputsBlock<Math, kColumns, kWarps, kRowTiles>;
  using Base::args_, Base::sum_, Base::kTiles;
  using typename Base::T;
  static constexpr bool kLoadAhead = kColumns == 16;  // elsewhere there are no registers left for a second step
  static constexpr bool kRounded = std::is_same_v<Math, Tf32Mma>;  // patches are, once
  static constexpr int kStepBytes = 32 * kColumns;                 // of the filter

 public:
  using Base::kThreads;
  using typename Base::Tile;

  __device__ FewInputsSteps(const FewInputsArgs& args, char* shared)
      : Base(args, shared), filter_(ptx::shared_address(shared)), patch_(shared + args.steps * kStepBytes) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
      base_[i] = this->in_patch(this->warp_row(i) + threadIdx.x % 16) * int(sizeof(T));
  }

  __device__ void start_filter() {
    Base::start_filter(filter_, [](int row, int chunk) { return chunk_by_row<32>(row, chunk); });
  }

  __device__ void clear_padding() const { Base::clear_padding(patch_, args_.patches * args_.patch_words); }

  __device__ static void synchronize() { __syncthreads(); }

  // Starts to copy one of two patches.
  __device__ void start_patch(int which, const Tile& tile) {
    char* const patch = patch_ + which * args_.patch_words * 4;
    if (args_.source == PatchSource::kChunks)
      this->template start_parts<kChunkBytes, false>(ptx::shared_address(patch), tile);
    else if (args_.source == PatchSource::kHalves)
      this->template start_parts<kChunkBytes / 2, false>(ptx::shared_address(patch), tile);
    else
      this->template load_planes<false>(reinterpret_cast<uint32_t*>(patch), tile);
  }

  __device__ static void wait_for_copies() { ptx::wait_for_all_copies(); }

  // What the thread copied, in the form that products take.
  __device__ void prepare_patch(int which) const {
    if constexpr (kRounded) {
      const uint32_t patch = ptx::shared_address(patch_ + which * args_.patch_words * 4);
      if (args_.source == PatchSource::kChunks)
        this->template prepare_parts<kChunkBytes>(patch);
      else if (args_.source == PatchSource::kHalves)
        this->template prepare_parts<kChunkBytes / 2>(patch);
    }
  }

  __device__ void multiply(int which) {
    const uint32_t patch = ptx::shared_address(patch_ + which * args_.patch_words * 4);
    const int lane = threadIdx.x % 32;
    uint32_t filter = filter_ + chunk_by_row<32>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    uint32_t rows[kRowTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) rows[i] = this->known(patch + base_[i]);
    const uint32_t which_chunk = this->known(lane / 16 ? 0x4432 : 0x4410);
    this->clear_sums();
    uint32_t place = this->place(0, which_chunk);
    if constexpr (kLoadAhead) {
      // Two steps by turns: one is loaded while the other is multiplied. (If one were copied to the other the compiler
      // would spend more instructions on that than on products.)
      Operands even, odd;
      load(even, rows, place, filter);
      place = this->place(1, which_chunk);
      for (int step = 0;;) {
        if (step + 1 < args_.steps) load(odd, rows, place, filter);
        place = this->place(step + 2, which_chunk);
        multiply(even);
        if (++step == args_.steps) break;
        if (step + 1 < args_.steps) load(even, rows, place, filter);
        place = this->place(step + 2, which_chunk);
        multiply(odd);
        if (++step == args_.steps) break;
      }
    } else {
      for (int step = 0; step < args_.steps; ++step) {
        Operands operands;
        load(operands, rows, place, filter);
        place = this->place(step + 1, which_chunk);
        multiply(operands);
      }
    }
  }

 private:
  struct Operands {
    uint32_t a[kRowTiles][4], b[kTiles / 2][4];
  };

  // Where the lane's chunk of a step lies: which_chunk of its two, as __byte_perm selects it.
  __device__ uint32_t place(int step, uint32_t which_chunk) const {
    return __byte_perm(args_.step[step].patch, 0, which_chunk) * kChunkBytes;
  }

  // Those of a step, whose filter is at `filter`.
  __device__ void load(Operands& operands, const uint32_t (&rows)[kRowTiles], uint32_t place, uint32_t& filter) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) ptx::load_matrices(operands.a[i], rows[i] + place);
    // Moving down by 16 rows keeps the order of a row's chunks.
#pragma unroll
    for (int j = 0; j < kTiles / 2; ++j) ptx::load_matrices(operands.b[j], filter + j * 16 * 32);
    filter += kStepBytes;
  }

  __device__ void multiply(const Operands& operands) {
    using A = Fragment<Math, 4>;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
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
__global__ void __launch_bounds__(32 * kWarps, few_inputs_resident(kWarps))
    few_inputs_steps(const __grid_constant__ FewInputsArgs args) {
  extern __shared__ __align__(16) char shared[];
  ptx::launch_dependents();
  FewInputsSteps<Math, kColumns, kWarps, kRowTiles> block(args, shared);
  run_few_inputs(block, args);
}

}  // namespace cks::cuda

// The weight gradient as a matrix product: rows are output channels, columns input channels of a group, and the sum
// runs over the live pixels of one tap. Both operands have the summed index in the wrong place for a tensor core
// (pixels are rows, channels contiguous): fragments are transposed on their way out of shared memory.
#include "ops_cuda/pipeline.cuh"
#include "ops_cuda/warp_tile.cuh"
#include "ops_cuda/weight_gradient.cuh"

namespace cks::cuda {
namespace {

constexpr int kStages = 4;

template <class T>
class PixelLoader {
  static constexpr int kChunks = kGradientTile / kChunk<T>;  // of a row
  static constexpr int kRowsAtOnce = kGradientThreads / kChunks;
  static_assert(kRowsAtOnce % 8 == 0, "rows of a thread share their swizzle");

 public:
  static constexpr int kDepth = 64 / int(sizeof(T));  // pixels of a slot
  static constexpr int kOperandBytes = kDepth * kGradientTile * int(sizeof(T));
  static constexpr int kSlotBytes = 2 * kOperandBytes;

  __device__ PixelLoader(const WeightGradientArgs& args, const GradientWork& work)
      : args_(args),
        tap_(args.taps[work.tap]),
        pixels_left_(work.pixels - row()),
        at_{LivePixels(tap_, work.first_pixel + row(), kDepth),
            LivePixels(tap_, work.first_pixel + row() + kRowsAtOnce, kDepth)} {
    const int column = threadIdx.x % kChunks * kChunk<T>;
    const int k = work.row_tile * kGradientTile + column, c = work.column_tile * kGradientTile + column;
    k_inside_ = k < args.dy.channels, c_inside_ = c < args.x.channels;
    dy_ = static_cast<const T*>(args.dy.data) + int64_t(work.group) * args.dy.group + k;
    x_ = static_cast<const T*>(args.x.data) + int64_t(work.group) * args.x.group + c;
    slot_offset_ = chunk_by_column<T, kGradientTile>(row(), threadIdx.x % kChunks);
  }

  __device__ void fetch(uint32_t slot) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool live = i * kRowsAtOnce < pixels_left_;
      const Int3 o = at_[i].output();
      const Int3 p = along(tap_.offset, args_.stride, o);
      copies_.fetch(2 * i, slot + slot_offset_ + i * kRowStep, dy_ + operand_offset(args_.dy, at_[i].image(), o),
                    live && k_inside_, args_.taps);
      copies_.fetch(2 * i + 1, slot + slot_offset_ + i * kRowStep + kOperandBytes,
                    x_ + operand_offset(args_.x, at_[i].image(), p), live && c_inside_, args_.taps);
      at_[i].advance();
    }
    pixels_left_ -= kDepth;
  }

  __device__ void land(uint32_t slot) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      copies_.land(2 * i, slot + slot_offset_ + i * kRowStep);
      copies_.land(2 * i + 1, slot + slot_offset_ + i * kRowStep + kOperandBytes);
    }
  }

 private:
  static constexpr int kRows = kDepth / kRowsAtOnce;  // of a thread
  static constexpr int kRowStep = kRowsAtOnce * kGradientTile * int(sizeof(T));
  static_assert(kRows == 2, "at_ is initialised for two");
  __device__ static int row() { return threadIdx.x / kChunks; }

  const WeightGradientArgs& args_;
  const LiveTap tap_;
  int64_t pixels_left_;
  LivePixels at_[kRows];
  bool k_inside_, c_inside_;
  const T *dy_, *x_;
  int slot_offset_;
  ChunkCopies<2 * kRows> copies_;
};

template <class Math>
__global__ void __launch_bounds__(kGradientThreads) gradient_gemm(const __grid_constant__ WeightGradientArgs args) {
  using T = typename Math::Element;
  using Loader = PixelLoader<T>;
  __shared__ __align__(128) char shared[kStages * Loader::kSlotBytes];
  const GradientWork work = gradient_work<Loader::kDepth>(args);
  Loader loader(args, work);
  const int num_blocks = work.pixels > 0 ? int((work.pixels + Loader::kDepth - 1) / Loader::kDepth) : 0;

  constexpr int kWarpTile = kGradientTile / 2;
  const int warp = threadIdx.x / 32, warp_row = warp / 2 * kWarpTile, warp_column = warp % 2 * kWarpTile;
  WarpTile<Math, kWarpTile, kWarpTile> sums;
  run_pipeline<kStages, Loader::kSlotBytes>(loader, ptx::shared_address(shared), num_blocks, [&](uint32_t slot) {
    sums.template multiply_columns<Loader::kDepth, kGradientTile, kGradientTile>(
        slot, warp_row, slot + Loader::kOperandBytes, warp_column);
  });

  const int first_k = work.row_tile * kGradientTile + warp_row,
            first_c = work.column_tile * kGradientTile + warp_column;
  sums.for_each_pair([&](int row, int column, float2 v) {
    const int k = first_k + row, c = first_c + column;
    if (k >= args.group_k) return;
    float* const to = partial_at(args, work, int64_t(work.group) * args.group_k + k, c);
    if (c < args.group_c) to[0] = v.x;
    if (c + 1 < args.group_c) to[1] = v.y;
  });
}

template <class Math>
const void* function() {
  return reinterpret_cast<const void*>(&gradient_gemm<Math>);
}

}  // namespace

const void* gradient_gemm_kernel(GradientMath math) {
  switch (math) {
    case GradientMath::kHalfMma:
      return function<HalfMma>();
    case GradientMath::kBFloat16Mma:
      return function<BFloat16Mma>();
    case GradientMath::kTf32Mma:
      return function<Tf32Mma>();
    case GradientMath::kFloatFma:
      return function<Fma<float>>();
    case GradientMath::kBFloat16Fma:
      return function<Fma<__nv_bfloat16>>();
  }
  return nullptr;
}

}  // namespace cks::cuda

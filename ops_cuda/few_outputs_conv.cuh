// Convolutions with few output channels, on tensor cores: the pixels of a patch times all taps and output channels,
// into shared memory; then every output sums the products of its taps. So each input is read once (and where patches
// overlap), however many taps it meets. Fragments come straight from memory: which of the summed channels an element of
// a fragment is does not matter as long as both operands agree, so a lane reads 16 bytes in a row.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/few_outputs.h"
#include "ops_cuda/fragments.cuh"
#include "ops_cuda/work_tile.cuh"

namespace cks::cuda {

template <class Math, int kColumns, bool kChunks>
class FewOutputsBlock {
  using T = typename Math::Element;
  static constexpr int kTiles = kColumns / 8;
  static constexpr int kBlock = 64 / int(sizeof(T));  // channels that a quad of lanes reads at once

 public:
  __device__ FewOutputsBlock(const FewOutputsArgs& args, char* shared)
      : args_(args), filter_(reinterpret_cast<uint32_t*>(shared)) {
    products_ = reinterpret_cast<float*>(filter_ + kColumns * args.filter_pitch);
    reaches_ = reinterpret_cast<Reach*>(products_ + args.product_rows * args.product_pitch);
    sums_ = reinterpret_cast<float*>(reaches_ + args.num_reaches);
    for (int i = threadIdx.x; i < args.num_reaches; i += kFewOutputsThreads) reaches_[i] = args.reaches[i];
  }

  // The weights of the lines of a turn.
  __device__ void load_filter(int turn) {
    const int line = args_.filter_extent.w * args_.K, first_line = turn * args_.turn_lines;
    const int chunks = args_.channel_blocks * 4, rows = min(args_.turn_lines, args_.lines - first_line) * line;
    const T* const filter = static_cast<const T*>(args_.filter) + int64_t(first_line) * line * args_.packed_pitch;
    for (int i = threadIdx.x; i < kColumns * chunks; i += kFewOutputsThreads) {
      const int row = i / chunks, chunk = i % chunks;
      const bool weights = row < rows && chunk * kChunk<T> < args_.packed_pitch;
      const uint4* const from =
          reinterpret_cast<const uint4*>(filter + int64_t(row) * args_.packed_pitch + chunk * kChunk<T>);
      *reinterpret_cast<uint4*>(filter_ + row * args_.filter_pitch + chunk * 4) =
          weights ? __ldg(from) : make_uint4(0, 0, 0, 0);
    }
  }

  // products[pixel of the patch][line of the turn, s, k].
  __device__ void multiply(int n, const Int3& corner) {
    const int lane = threadIdx.x % 32, row = lane / 4, chunk = lane % 4;
    const uint32_t* const filter = filter_ + row * args_.filter_pitch + chunk * 4;
    for (int first = threadIdx.x / 32 * kFewOutputsRows; first < args_.product_rows;
         first += kFewOutputsThreads / 32 * kFewOutputsRows) {
      const T* source[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) source[r] = pixel(n, corner, first + row + 8 * r);
      float sum[2][kTiles][4] = {};
#pragma unroll 2
      for (int block = 0; block < args_.channel_blocks; ++block) {
        uint4 rows[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) rows[r] = load(source[r], block * kBlock + chunk * kChunk<T>);
        using A = Fragment<Math, 4>;  // of two tiles of 16 pixels, the first and the second half of the block
        const A low[2] = {A({rows[0].x, rows[1].x, rows[0].y, rows[1].y}),
                          A({rows[2].x, rows[3].x, rows[2].y, rows[3].y})};
        const A high[2] = {A({rows[0].z, rows[1].z, rows[0].w, rows[1].w}),
                           A({rows[2].z, rows[3].z, rows[2].w, rows[3].w})};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const uint4 b = *reinterpret_cast<const uint4*>(filter + j * 8 * args_.filter_pitch + block * 16);
          const Fragment<Math, 2> b_low({b.x, b.y}), b_high({b.z, b.w});
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            cks::cuda::multiply(sum[i][j], low[i], b_low);
            cks::cuda::multiply(sum[i][j], high[i], b_high);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            products_[(first + row + 8 * r) * args_.product_pitch + j * 8 + chunk * 2 + e] =
                sum[r / 2][j][r % 2 * 2 + e];
    }
  }

  // Sums what a turn gave to each output of the tile; after the last turn stores them.
  __device__ void sum_outputs(int n, const Int3& origin, int turn) {
    const int row_threads = 1 << args_.row_threads_log2;
    for (int row = threadIdx.x >> args_.row_threads_log2; row < args_.box.d * args_.box.h;
         row += kFewOutputsThreads >> args_.row_threads_log2) {
      const int d = args_.box_h.quotient(row), h = row - d * args_.box.h;
      if (origin.d + d >= args_.output.d || origin.h + h >= args_.output.h) continue;
      const int end = min(args_.box.w, args_.output.w - origin.w);
      const int64_t pixel = pixel_index(args_.output, {origin.d + d, origin.h + h, origin.w});
      const OutputRow out{n * args_.y_image + pixel * args_.y_pixel, row * args_.box.w * args_.K, end, reaches_[d],
                          reaches_[args_.box.d + h]};
      const int first = threadIdx.x & (row_threads - 1);
      if (args_.K == 1)
        for (int w = first; w < end; w += 4 * row_threads) sum_some<4, 1>(out, w, row_threads, turn, 0);
      else
        for (int w = first; w < end; w += row_threads)
          for (int k = 0; k < args_.K; k += 4) sum_some<1, 4>(out, w, row_threads, turn, k);
    }
  }

 private:
  // A row of the outputs of a tile: its first pixel in y (channel 0) and in sums_, how many there are, what reaches it.
  struct OutputRow {
    int64_t y;
    int sums, end;
    Reach d, h;
  };

  // kPixels outputs of a row, from w on and w_step apart, times kCount channels from first_k on. Of channels past the
  // last one what happens to lie there is summed, not stored.
  template <int kPixels, int kCount>
  __device__ void sum_some(const OutputRow& row, int w, int w_step, int turn, int first_k) const {
    const int pitch = args_.product_pitch, K = args_.K;
    const int step = args_.pixel_step.w * pitch + args_.tap_step.w * K;
    const Reach* const reaches = reaches_ + args_.box.d + args_.box.h;
    int offset[kPixels], taps[kPixels], most = 0;
    float sum[kPixels][kCount];
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      Reach reach{0, 0, 0};
      if (w + p * w_step < row.end) reach = reaches[w + p * w_step];
      offset[p] = reach.pixel * pitch + reach.tap * K + first_k;
      taps[p] = reach.count, most = max(most, taps[p]);
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        sum[p][k] = turn > 0 && w + p * w_step < row.end && first_k + k < K
                        ? sums_[row.sums + (w + p * w_step) * K + first_k + k]
                        : 0.f;
    }
    for (int i = 0; i < row.d.count; ++i)
      for (int j = 0; j < row.h.count; ++j) {
        const int line = (row.d.tap + i * args_.tap_step.d) * args_.filter_extent.h + row.h.tap + j * args_.tap_step.h -
                         turn * args_.turn_lines;
        if (unsigned(line) >= unsigned(args_.turn_lines)) continue;
        const int pixel_row =
            (row.d.pixel + i * args_.pixel_step.d) * args_.patch.h + row.h.pixel + j * args_.pixel_step.h;
        const float* product = products_ + pixel_row * args_.patch.w * pitch + line * args_.filter_extent.w * K;
        for (int t = 0; t < most; ++t, product += step)
#pragma unroll
          for (int p = 0; p < kPixels; ++p)
#pragma unroll
            for (int k = 0; k < kCount; ++k)
              if (kPixels == 1 || t < taps[p]) sum[p][k] += product[offset[p] + k];
      }
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const int at = w + p * w_step;
      if (at >= row.end) break;
      if (turn + 1 < args_.turns) {
#pragma unroll
        for (int k = 0; k < kCount; ++k)
          if (first_k + k < K) sums_[row.sums + at * K + first_k + k] = sum[p][k];
      } else {
        store(sum[p], first_k, row.y + at * args_.y_pixel + first_k * args_.y_channel);
      }
    }
  }

  template <int kCount>
  __device__ void store(float (&v)[kCount], int first_k, int64_t at) const {
    const Epilogue& e = args_.epilogue;
    const int count = args_.K - first_k;
    if (e.bias)
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        if (k < count) v[k] += to_float(static_cast<const T*>(e.bias)[first_k + k]);
    if (e.residual)
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        if (k < count)
          v[k] =
              add_leaky(v[k], to_float(static_cast<const T*>(e.residual)[at + k * args_.y_channel]), e.residual_slope);
    if (e.slopes) apply_slopes(v, e.slopes + first_k);
    activate_by_calls(e, v);
#pragma unroll
    for (int k = 0; k < kCount; ++k)
      if (k < count) static_cast<T*>(e.y)[at + k * args_.y_channel] = from_float<T>(v[k]);
  }

  // Channel 0 of pixel `row` of the patch, or null outside the image.
  __device__ const T* pixel(int n, const Int3& corner, int row) const {
    const int line = args_.patch_w.quotient(row), d = args_.patch_h.quotient(line);
    const Int3 p{corner.d + d, corner.h + line - d * args_.patch.h, corner.w + row - line * args_.patch.w};
    if (row >= args_.patch_pixels || !inside(args_.input, p)) return nullptr;
    return static_cast<const T*>(args_.x) + n * args_.x_image + pixel_index(args_.input, p) * args_.x_pixel;
  }

  // Channels c, c + 1, ... that fill 16 bytes, zeros past the last.
  __device__ uint4 load(const T* pixel, int c) const {
    uint4 v = make_uint4(0, 0, 0, 0);
    if constexpr (kChunks) {
      if (pixel && c < args_.C) v = __ldg(reinterpret_cast<const uint4*>(pixel + c));
    } else if (pixel) {
      union {
        uint4 chunk;
        T element[kChunk<T>];
      } each{v};
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i)
        if (c + i < args_.C) each.element[i] = __ldg(pixel + (c + i) * args_.x_channel);
      v = each.chunk;
    }
    return {Math::prepare(v.x), Math::prepare(v.y), Math::prepare(v.z), Math::prepare(v.w)};
  }

  const FewOutputsArgs& args_;
  uint32_t* filter_;
  float *products_, *sums_;
  Reach* reaches_;
};

template <class Math, int kColumns, bool kChunks>
__global__ void __launch_bounds__(kFewOutputsThreads, 2) few_outputs_conv(const __grid_constant__ FewOutputsArgs args) {
  extern __shared__ __align__(16) char shared[];
  ptx::launch_dependents();
  if (!args.filter_is_constant) ptx::wait_for_previous_grid();
  FewOutputsBlock<Math, kColumns, kChunks> block(args, shared);
  if (args.turns == 1) block.load_filter(0);
  ptx::wait_for_previous_grid();
  for (unsigned tile = blockIdx.x; tile < args.num_tiles; tile += gridDim.x) {
    unsigned rest = tile;
    Int3 at;
    at.w = int(rest % unsigned(args.tiles.w)), rest /= unsigned(args.tiles.w);
    at.h = int(rest % unsigned(args.tiles.h)), rest /= unsigned(args.tiles.h);
    at.d = int(rest % unsigned(args.tiles.d));
    const int n = int(rest / unsigned(args.tiles.d));
    const Int3 corner = along(args.patch_first, args.patch_step, at);
    const Int3 origin = along({0, 0, 0}, args.box, at);
    for (int turn = 0; turn < args.turns; ++turn) {
      __syncthreads();  // all have left the products before, and the weights that made them
      if (args.turns > 1) {
        block.load_filter(turn);
        __syncthreads();
      }
      block.multiply(n, corner);
      __syncthreads();
      block.sum_outputs(n, origin, turn);
    }
  }
}

template <class Math, bool kChunks>
const void* few_outputs_kernel(int columns) {
  return columns == 16   ? reinterpret_cast<const void*>(&few_outputs_conv<Math, 16, kChunks>)
         : columns == 24 ? reinterpret_cast<const void*>(&few_outputs_conv<Math, 24, kChunks>)
                         : reinterpret_cast<const void*>(&few_outputs_conv<Math, kFewOutputsColumns, kChunks>);
}

template <class Math>
const void* few_outputs_kernel(int columns, bool chunks) {
  return chunks ? few_outputs_kernel<Math, true>(columns) : few_outputs_kernel<Math, false>(columns);
}

}  // namespace cks::cuda

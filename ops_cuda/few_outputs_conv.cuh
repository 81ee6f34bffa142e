// Convolutions with few output channels, on tensor cores: the pixels of a patch times all taps and output channels,
// into shared memory; then every output sums the products of its taps. So each input is read once (and where patches
// overlap), however many taps it meets. Fragments come straight from memory: which of the summed channels an element of
// a fragment is does not matter as long as both operands agree, so a lane reads 16 bytes in a row.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/few_outputs.h"
#include "ops_cuda/split_tf32.cuh"
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
        uint4 a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = load(source[r], block * kBlock + chunk * kChunk<T>);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const uint4 b = *reinterpret_cast<const uint4*>(filter + j * 8 * args_.filter_pitch + block * 16);
          const uint32_t low[2] = {b.x, b.y}, high[2] = {b.z, b.w};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const uint4 top = a[2 * i], bottom = a[2 * i + 1];
            const uint32_t a_low[4] = {top.x, bottom.x, top.y, bottom.y};
            const uint32_t a_high[4] = {top.z, bottom.z, top.w, bottom.w};
            Math::multiply(sum[i][j], a_low, low);
            Math::multiply(sum[i][j], a_high, high);
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
      const Reach reach_d = reaches_[d], reach_h = reaches_[args_.box.d + h];
      for (int w = threadIdx.x & (row_threads - 1); w < args_.box.w; w += row_threads) {
        const Int3 p{origin.d + d, origin.h + h, origin.w + w};
        if (!inside(args_.output, p)) continue;
        const Reach reach_w = reaches_[args_.box.d + args_.box.h + w];
        const int64_t target = n * args_.y_image + pixel_index(args_.output, p) * args_.y_pixel;
        float* const sums = sums_ + (row * args_.box.w + w) * args_.K;
        if (args_.K == 1)
          sum_channels<1>(reach_d, reach_h, reach_w, turn, 0, sums, target);
        else
          for (int k = 0; k < args_.K; k += 4) sum_channels<4>(reach_d, reach_h, reach_w, turn, k, sums, target);
      }
    }
  }

 private:
  // Output channels first_k, ..., kCount of them. Past the last one what happens to lie there is summed, not stored.
  template <int kCount>
  __device__ void sum_channels(const Reach& d, const Reach& h, const Reach& w, int turn, int first_k, float* sums,
                               int64_t target) const {
    const int pitch = args_.product_pitch, K = args_.K, S = args_.filter_extent.w, R = args_.filter_extent.h;
    const int step = args_.pixel_step.w * pitch + args_.tap_step.w * K;
    float sum[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = turn > 0 && first_k + k < K ? sums[first_k + k] : 0.f;
    for (int i = 0; i < d.count; ++i)
      for (int j = 0; j < h.count; ++j) {
        const int line = (d.tap + i * args_.tap_step.d) * R + h.tap + j * args_.tap_step.h - turn * args_.turn_lines;
        if (unsigned(line) >= unsigned(args_.turn_lines)) continue;
        const int pixel =
            ((d.pixel + i * args_.pixel_step.d) * args_.patch.h + h.pixel + j * args_.pixel_step.h) * args_.patch.w +
            w.pixel;
        const float* product = products_ + pixel * pitch + (line * S + w.tap) * K + first_k;
#pragma unroll 4
        for (int t = 0; t < w.count; ++t, product += step)
#pragma unroll
          for (int k = 0; k < kCount; ++k) sum[k] += product[k];
      }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (first_k + k >= K) break;
      if (turn + 1 < args_.turns)
        sums[first_k + k] = sum[k];
      else
        store_output_by_call<T>(args_.epilogue, sum[k], first_k + k, target + (first_k + k) * args_.y_channel);
    }
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
  FewOutputsBlock<Math, kColumns, kChunks> block(args, shared);
  if (args.turns == 1) block.load_filter(0);
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

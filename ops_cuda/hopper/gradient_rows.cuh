// The end of a block that writes dW itself. dW has the taps of a filter side by side, a block has the sums of some of
// them, over some of the pixels; but all blocks with a part of one square of dW are a cluster. Each leaves its sums in
// its shared memory, and makes whole rows of dW, for a share of the output channels, from everybody's. (Blocks that
// stored their own elements, two bytes here and there, took 1 us for each MB.)
#pragma once
#include "ops_cuda/element.cuh"
#include "ops_cuda/hopper/gradient_passes.h"
#include "ops_cuda/hopper/gradient_ptx.cuh"
#include "ops_cuda/hopper/weight_gradient.h"

namespace cks::cuda::hopper {

// Out: dW's type. Staged: what sums are left as; floats where others are added to them.
template <class Out, class Staged>
struct GradientRows {
  static constexpr int kVector = 16 / int(sizeof(Staged));  // elements that are read at once

  // A vector of a row of staged sums, counted through all sets of the cluster for kVector channels: where it lies in
  // the shared memory of a block, and how much further it does for another output channel, and the next kVector
  // channels.
  struct Source {
    uint32_t at, row, next, rank;  // the set's first block
  };
  static_assert(sizeof(Source) == 16);

  const GradientParams& p;
  const int first_k, first_c, num_k, num_c, live;
  const uint32_t shared;

  __device__ GradientRows(const GradientParams& p, const GradientItem& item, uint32_t shared)
      : p(p),
        first_k(item.k * kSquare),
        first_c(item.c * p.shape.width),
        num_k(min(kSquare, p.K - first_k)),
        num_c(min(p.shape.width, p.C - first_c)),
        live(p.set_first[p.sets]),
        shared(shared) {}

  __device__ int taps_of(int set) const { return p.set_first[set + 1] - p.set_first[set]; }
  __device__ uint32_t pitch(int taps) const {  // of staged rows; they begin at other banks
    return uint32_t(p.shape.width * taps * int(sizeof(Staged)) + 16);
  }
  // A block has all taps, in their order: its rows are dW's.
  __device__ bool whole() const { return p.sets == 1 && live == p.taps; }

  // A square of a block's sums, in the order of accumulators; the tap is the order-th of its set.
  template <int kWidth>
  __forceinline__ __device__ void leave_square(const float* sums, int tap_set, int order) const {
    const int lane = threadIdx.x % 32, taps = taps_of(tap_set);
    const int row = threadIdx.x % 128 / 32 * 16 + lane / 4, column = lane % 4 * 2;
    const uint32_t to = shared + row * pitch(taps) + (column * taps + order) * int(sizeof(Staged));
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) {
      const int k = i % 4 / 2 * 8, c = i / 4 * 8 + i % 2;
      store_element(to + k * pitch(taps) + c * taps * int(sizeof(Staged)), from_float<Staged>(sums[i]));
    }
  }

  // Sources, and to which elements of kVector channels of dW their elements go.
  __device__ void make_tables() const {
    const uint32_t sources = shared + p.tables_at, targets = sources + live * 16;
    for (int q = threadIdx.x; q < live; q += kGradientMathThreads) {
      int set = 0;
      while (q >= p.set_first[set + 1]) ++set;
      const int taps = taps_of(set), vector = q - p.set_first[set];
      store_words(sources + q * 16, uint32_t(vector * 16), pitch(taps), uint32_t(taps * 16),
                  uint32_t(set * p.cluster_splits));
      int c = vector * kVector / taps, order = vector * kVector % taps;
      uint32_t target[kVector];
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        target[j] = uint32_t(c * p.taps + p.tap_of[p.set_first[set] + order]);
        if (++order == taps) order = 0, ++c;
      }
#pragma unroll
      for (int j = 0; j < kVector; j += 4)
        store_words(targets + q * (kVector * 2) + j * 2, target[j] | target[j + 1] << 16,
                    target[j + 2] | target[j + 3] << 16);
    }
  }

  // A vector of all parts of the sum.
  __device__ float4 load(uint32_t at, int rank) const {
    float4 sum = load_peer(peer_address(at, rank));
    if constexpr (sizeof(Staged) == 4) {
      for (int i = 1; i < p.cluster_splits; ++i) {
        const float4 v = load_peer(peer_address(at, rank + i));
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
    }
    return sum;
  }

  __device__ void write() const {
    const int rank = int(cluster_rank()), blocks = p.sets * p.cluster_splits;
    const int begin = num_k * rank / blocks, end = num_k * (rank + 1) / blocks;
    if (whole()) {
      write_whole(begin, end);
    } else {
      write_gathered(begin, end);
    }
  }

  __device__ Out* row_of(int k) const {
    return static_cast<Out*>(p.dw) + (int64_t(first_k + k) * p.C + first_c) * p.taps;
  }

  __device__ void write_whole(int begin, int end) const {
    constexpr int kAtOnce = 3;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, vectors = num_c * p.taps / kVector;
#pragma unroll 1
    for (int k = begin + warp; k < end; k += kGradientMathThreads / 32) {
      Out* const to = row_of(k);
      for (int first = lane; first < vectors; first += kAtOnce * 32) {
        float4 v[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          v[i] = load(shared + k * pitch(p.taps) + min(first + i * 32, vectors - 1) * 16, 0);
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          if (first + i * 32 >= vectors) break;
          if constexpr (sizeof(Out) == sizeof(Staged)) {
            reinterpret_cast<float4*>(to)[first + i * 32] = v[i];
          } else {
            const float four[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
            Out* const type = nullptr;
            reinterpret_cast<uint2*>(to)[first + i * 32] = {pack_word(four, type), pack_word(four + 2, type)};
          }
        }
      }
    }
  }

  // Through a buffer of the warp's own, where the taps of all sets find their places; a few rows at once, so that many
  // loads wait together.
  __device__ void write_gathered(int begin, int end) const {
    constexpr int kAtOnce = 8, kWarps = kGradientMathThreads / 32;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t buffer = shared + p.rows_at + warp * p.rows_at_once * p.row_bytes;
    const uint32_t sources = shared + p.tables_at, targets = sources + live * 16;
    if (live < p.taps)  // dead taps are zero
      for (int i = lane; i < p.rows_at_once * p.row_bytes / 16; i += 32) store_shared(buffer + i * 16, float4{});
    __syncwarp();
    const int pieces = (num_c + p.row_channels - 1) / p.row_channels, of_live = ((1 << 24) + live - 1) / live;
    for (int unit = warp; unit * p.rows_at_once < (end - begin) * pieces; unit += kWarps) {
      const int k = begin + unit / pieces * p.rows_at_once, c = unit % pieces * p.row_channels;
      const int rows = min(p.rows_at_once, end - k), channels = min(p.row_channels, num_c - c);
      const int vectors = channels / kVector * live;               // of a row
      const int of_vectors = ((1 << 24) + vectors - 1) / vectors;  // at * of_vectors >> 24 is at / vectors for all here
      for (int first = lane; first < rows * vectors; first += kAtOnce * 32) {
        float4 v[kAtOnce];
        int q[kAtOnce];
        uint32_t to[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const int at = min(first + i * 32, rows * vectors - 1), row = at * of_vectors >> 24;
          const int in_row = at - row * vectors, group = in_row * of_live >> 24;
          q[i] = in_row - group * live;
          to[i] = buffer + row * p.row_bytes + group * kVector * p.taps * int(sizeof(Out));
          const uint4 source = load_words(sources + q[i] * 16);
          v[i] = load(shared + source.x + (k + row) * source.y + (c / kVector + group) * source.z, int(source.w));
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i)
          if (first + i * 32 < rows * vectors) place(to[i], targets, q[i], v[i]);
      }
      __syncwarp();
      for (int row = 0; row < rows; ++row) {
        float4* const to = reinterpret_cast<float4*>(row_of(k + row) + c * p.taps);
        for (int i = lane; i < channels * p.taps * int(sizeof(Out)) / 16; i += 32)
          to[i] = load_shared(buffer + row * p.row_bytes + i * 16);
      }
      __syncwarp();
    }
  }

  __device__ static void place(uint32_t row, uint32_t targets, int q, float4 v) {
    const auto at = [&](uint32_t element) { return row + element * int(sizeof(Out)); };
    if constexpr (sizeof(Staged) == 2) {
      const uint4 target = load_words(targets + q * 16);
      const uint32_t to[4] = {target.x, target.y, target.z, target.w};
      const uint32_t words[4] = {__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z),
                                 __float_as_uint(v.w)};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        store_half_word(at(to[j] & 0xffff), uint16_t(words[j]));
        store_half_word(at(to[j] >> 16), uint16_t(words[j] >> 16));
      }
    } else {
      const uint2 target = load_two_words(targets + q * 8);
      store_element(at(target.x & 0xffff), from_float<Out>(v.x));
      store_element(at(target.x >> 16), from_float<Out>(v.y));
      store_element(at(target.y & 0xffff), from_float<Out>(v.z));
      store_element(at(target.y >> 16), from_float<Out>(v.w));
    }
  }
};

}  // namespace cks::cuda::hopper

// How math warps finish a tile whose sum they have: by slabs of channels, through shared memory.
#pragma once
#include "ops_cuda/epilogue.cuh"
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

template <class Tile>
struct TileEpilogue {
  using T = typename Tile::T;
  using Accumulators = typename Tile::Accumulators;
  using Barriers = typename Tile::Barriers;
  static constexpr int BM = Tile::BM, BN = Tile::BN, kRowBlocks = Tile::kRowBlocks, kSlab = Tile::kSlab,
                       kSlabs = Tile::kSlabs, kSlabBytes = Tile::kSlabBytes, kStaged = Tile::kStaged,
                       kStagedBytes = Tile::kStagedBytes;
  static constexpr bool kFilterHasScales = Tile::kFilterHasScales;
  static constexpr Curve kCurve = Tile::kCurve;

  // Eight sums of a thread, accumulator order: channels k, k + 1, k + 8, k + 9 of a row and of the row eight below it,
  // as {row: k, k + 1}, {row + 8: k, k + 1}, {row: k + 8, k + 9}, {row + 8: k + 8, k + 9}.
  // Their scale and bias. What lies beyond the last channel is not stored.
  struct Affine {
    float scale[kFilterHasScales ? 4 : 1], bias[4];
    __device__ void apply(float (&v)[8]) const {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int channel = i / 4 * 2 + i % 2;
        if constexpr (kFilterHasScales) v[i] *= scale[channel];
        v[i] += bias[channel];
      }
    }
  };

  // Of consecutive groups of 16 channels; k is the first of this thread's.
  template <int kGroups>
  static __device__ void load_affine(const Params& p, int k, Affine (&affine)[kGroups]) {
    const auto for_each = [&](auto f) {
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i) f(affine[g], i, min(k + g * 16 + i / 2 * 8 + i % 2, p.K - 1));
    };
    const T* const bias = static_cast<const T*>(p.epilogue.bias);
    if constexpr (kFilterHasScales) for_each([&](Affine& a, int i, int at) { a.scale[i] = p.filter_scales[at]; });
    for_each([](Affine& a, int i, int) { a.bias[i] = 0; });
    if (bias) for_each([&](Affine& a, int i, int at) { a.bias[i] = to_float(bias[at]); });
  }

  // The activation of eight sums, of which k is the first channel. Every piecewise linear one by one formula, lest the
  // code of each is inlined for every accumulator. PRelu's slopes are read here: kept beside the bias they would take
  // registers from every activation.
  static __device__ void apply(const Epilogue& e, float (&v)[8], int k) {
    if constexpr (kCurve == Curve::kAny) {
      activate(e, v);
    } else if (e.kind != ActivationKind::kNone) {
      const bool clip = e.kind == ActivationKind::kClip;
      const float alpha = e.kind == ActivationKind::kLeakyRelu ? e.alpha : 1.f;
      const float low = clip                              ? e.alpha
                        : e.kind == ActivationKind::kRelu ? 0.f
                                                          : -INFINITY,
                  high = clip ? e.beta : INFINITY;
      float2 slopes[2] = {{alpha, alpha}, {alpha, alpha}};
      if (e.slopes) {
#pragma unroll
        for (int i = 0; i < 2; ++i) slopes[i] = __ldg(reinterpret_cast<const float2*>(e.slopes + k + i * 8));
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = clamp(leaky_relu(v[i], i % 2 ? slopes[i / 4].y : slopes[i / 4].x), low, high);
    }
  }

  // Scales and biases of a tile's channels, fetched before its sum: a lane has those of some pairs of channels, of
  // which four times eight lanes have all. (Not where floats are multiplied: those kernels have no registers for them.)
  static constexpr bool kHoldsAffines = sizeof(typename Tile::Input) == 2;
  class Affines {
   public:
    __device__ Affines(const Params& p, int k0) {
      if constexpr (kHoldsAffines) {
        const T* const bias = static_cast<const T*>(p.epilogue.bias);
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
          const int k = k0 + i * 64 + lane / 4 * 8 + lane % 4 * 2, at[2] = {min(k, p.K - 1), min(k + 1, p.K - 1)};
          const float pair[2] = {bias ? to_float(bias[at[0]]) : 0, bias ? to_float(bias[at[1]]) : 0};
#pragma unroll
          for (int j = 0; j < kWords; ++j) biases_[i][j] = pack_word(pair + j, static_cast<T*>(nullptr));
          if constexpr (kFilterHasScales)
            scales_[i][0] = p.filter_scales[at[0]], scales_[i][1] = p.filter_scales[at[1]];
        }
      }
    }
    // Of a thread's channels in the tile's group of 16.
    __device__ Affine of_group(int group) const {
      Affine affine;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int pair = group * 2 + i, lane = pair % 8 * 4 + threadIdx.x % 4;
        uint32_t words[kWords];
#pragma unroll
        for (int j = 0; j < kWords; ++j)
          words[j] = __shfl_sync(0xffffffff, held(pair / 8, [=, this](int n) { return biases_[n][j]; }), lane);
        unpack<T>(words, *reinterpret_cast<float (*)[2]>(&affine.bias[i * 2]));
        if constexpr (kFilterHasScales) {
#pragma unroll
          for (int j = 0; j < 2; ++j)
            affine.scale[i * 2 + j] =
                __shfl_sync(0xffffffff, held(pair / 8, [=, this](int n) { return scales_[n][j]; }), lane);
        }
      }
      return affine;
    }

   private:
    static constexpr int kPairs = (BN + 63) / 64, kWords = int(sizeof(T)) / 2;
    // What this lane has of pair i, of which only the running kernel may know which it is: registers have no index.
    template <class F>
    static __device__ auto held(int i, F of_pair) {
      auto found = of_pair(0);
#pragma unroll
      for (int n = 1; n < kPairs; ++n) found = i == n ? of_pair(n) : found;
      return found;
    }
    uint32_t biases_[kPairs][kWords];
    float scales_[kFilterHasScales ? kPairs : 1][2];
  };

  // Where 16 bytes of a staged slab lie: rows of kSlabBytes, in the swizzle of the store map.
  static __device__ uint32_t staged(uint32_t slab, int row, int chunk) {
    const int swizzle = kSlabBytes == 128 ? row % 8 : row / 2 % 4;
    return slab + row * kSlabBytes + (chunk ^ swizzle) * 16;
  }

  // Finishes a slab: adds bias and residual (which TMA has put where the slab goes), activates, rounds, and leaves it
  // staged.
  //
  // kPlain: no residual, and no activation but ReLU. This code runs once for every tile, mostly not from the
  // instruction cache: its length is its time.
  template <bool kPlain>
  static __device__ void stage_slab(const Params& p, Accumulators& acc, int slab, const Affine (&affine)[kSlab / 16],
                                    int k, uint32_t stage, int row0) {
    const int lane = threadIdx.x % 32;
    T* const type = nullptr;
    const float low = p.epilogue.kind == ActivationKind::kRelu ? 0.f : -INFINITY;
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
      for (int g = 0; g < kSlab / 16; ++g) {
        float (&v)[8] = *reinterpret_cast<float (*)[8]>(&acc[m][slab * (kSlab / 2) + g * 8]);
        affine[g].apply(v);
        if constexpr (sizeof(T) == 2) {
          const uint32_t at = staged(stage, row0 + m * 64 + lane % 16, g * 2 + lane / 16);
          const float lows[2] = {low, low};
          const uint32_t low_pair = pack_word(lows, type);
          uint32_t words[4];
          if (!kPlain && p.epilogue.residual) {
            float z[8];
            load_matrices(words, at);
            unpack<T>(words, z);
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] = add_leaky(v[i], z[i], p.epilogue.residual_slope);
          }
          if constexpr (!kPlain) apply(p.epilogue, v, k + g * 16);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            words[i] = pack_word(v + i * 2, type);
            if constexpr (kPlain) words[i] = max_or_nan(words[i], low_pair, type);  // two sums at once
          }
          store_matrices(at, words);
        } else {
          const auto at = [&](int i) {
            const int channel = g * 16 + i / 2 * 8 + lane % 4 * 2;
            return staged(stage, row0 + m * 64 + lane / 4 + i % 2 * 8, channel / 4) + channel % 4 * 4;
          };
          if (!kPlain && p.epilogue.residual) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float2 z = load_shared_pair(at(i));
              v[i * 2] = add_leaky(v[i * 2], z.x, p.epilogue.residual_slope);
              v[i * 2 + 1] = add_leaky(v[i * 2 + 1], z.y, p.epilogue.residual_slope);
            }
          }
          if constexpr (kPlain) {
            for_all(v, [=](float x) { return max_or_nan(x, low); });
          } else {
            apply(p.epilogue, v, k + g * 16);
          }
#pragma unroll
          for (int i = 0; i < 4; ++i) store_shared(at(i), make_float2(v[i * 2], v[i * 2 + 1]));
        }
      }
    }
  }

  static __device__ bool is_plain(const Epilogue& e) {
    const bool linear = e.kind == ActivationKind::kNone || e.kind == ActivationKind::kRelu;
    return kCurve == Curve::kPiecewiseLinear && !e.residual && linear;
  }

  template <bool kPlain>
  static __device__ void stage_tile(const Params& p, int k0, Accumulators& acc, uint32_t stages, const Barriers& bars,
                                    int team, PipelineState& at, int row0, const Affines& affines) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) {
      const int first = k0 + slab * kSlab, k = first + lane % 4 * 2;
      if (first >= p.K) continue;
      Affine affine[kSlab / 16];
      if constexpr (kHoldsAffines) {
#pragma unroll
        for (int g = 0; g < kSlab / 16; ++g) affine[g] = affines.of_group(slab * (kSlab / 16) + g);
      } else {
        load_affine(p, k, affine);
      }
      barrier_wait(shared_address(&bars.ready[team][at.stage]), at.parity);
      stage_slab<kPlain>(p, acc, slab, affine, k, stages + team * kStagedBytes + at.stage * (BM * kSlabBytes), row0);
      fence_async_proxy();
      __syncwarp();
      if (lane == 0) barrier_arrive(shared_address(&bars.staged[team][at.stage]));
      at.advance(kStaged);
    }
  }
};

}  // namespace cks::cuda::hopper

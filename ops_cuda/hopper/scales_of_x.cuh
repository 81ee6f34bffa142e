// The scales of an X that was halved before the kernel (halve.h), as a tile's rows have them.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

// Read before a tile is summed, and undone in its sum; nothing where X was not halved.
template <class Tile>
class ScalesOfX {
 public:
  // row: of the tile, this lane's first.
  __device__ ScalesOfX(const Params& p, const WorkReader& work, int row) {
    if constexpr (Tile::kHalved) {
      const int image = p.x_scales_in_line ? 0 : work.input().n, first = p.x_scales_in_line ? work.output().w : 0;
      for_rows([&](int m, int i) {
        const int scale = image + (first + row + m * 64 + i * 8) / p.rows_of_x_scale;
        inverse_[m][i] = p.x_scales[min(scale, p.x_scales_count - 1)];  // a tile may hang over the output
      });
    }
  }

  __device__ void undo(typename Tile::Accumulators& sum) const {
    if constexpr (Tile::kHalved) {
      for_rows([&](int m, int i) {
#pragma unroll
        for (int j = i * 2; j < Tile::BN / 2; j += 4) sum[m][j] *= inverse_[m][i], sum[m][j + 1] *= inverse_[m][i];
      });
    }
  }

 private:
  static constexpr int kRowBlocks = Tile::kHalved ? Tile::kRowBlocks : 1;

  template <class F>
  static __device__ void for_rows(F f) {
#pragma unroll
    for (int m = 0; m < kRowBlocks; ++m)
#pragma unroll
      for (int i = 0; i < 2; ++i) f(m, i);
  }

  float inverse_[kRowBlocks][2];
};

}  // namespace cks::cuda::hopper

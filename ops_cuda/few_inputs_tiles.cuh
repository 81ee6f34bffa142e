// The tiles of a thread block, one after the other, where a patch can be copied while another is multiplied.
#pragma once
#include "ops_cuda/few_inputs_block.cuh"

namespace cks::cuda {

template <class Block>
__device__ void run_few_inputs(Block& block, const FewInputsArgs& args) {
  if (args.filter_is_constant) block.start_filter();
  ptx::wait_for_previous_grid();
  if (!args.filter_is_constant) block.start_filter();
  auto tile = block.tile_at(blockIdx.x);
  const bool ahead = args.patches == 2;
  int which = 0;
  block.start_patch(which, tile);
  for (unsigned i = blockIdx.x; i < args.num_tiles; i += gridDim.x) {
    block.wait_for_copies();
    __syncthreads();  // this tile's patch is there, and all have left the one before
    const bool more = i + gridDim.x < args.num_tiles;
    auto next = tile;
    if (more) next = block.tile_at(i + gridDim.x);
    if (ahead && more) block.start_patch(1 - which, next);
    block.multiply(which);
    if (ahead) {
      which = 1 - which;
    } else if (more) {
      __syncthreads();
      block.start_patch(which, next);
    }
    block.store(tile);
    tile = next;
  }
}

}  // namespace cks::cuda

// The tiles of a thread block, where a patch can be copied while another is multiplied. Each team takes one after the
// other, whatever the others do.
#pragma once
#include "ops_cuda/few_inputs_block.cuh"

namespace cks::cuda {

template <class Block>
__device__ void run_few_inputs(Block& block, const FewInputsArgs& args) {
  if (!args.filter_is_constant) ptx::wait_for_previous_grid();
  block.start_filter();
  block.clear_padding();
  const unsigned teams = blockDim.x / Block::kThreads, together = gridDim.x * teams;
  unsigned i = threadIdx.x / Block::kThreads * gridDim.x + blockIdx.x;
  const bool ahead = args.patches == 2;
  int which = 0;
  auto tile = block.tile_at(i);
  ptx::wait_for_previous_grid();
  if (i < args.num_tiles) block.start_patch(which, tile);
  block.put_column(block.column_of_thread());
  block.wait_for_copies();
  __syncthreads();  // all of the filter is there, and the columns
  for (; i < args.num_tiles; i += together) {
    block.wait_for_copies();
    block.prepare_patch(which);
    block.synchronize();  // this tile's patch is there, and all have left the one before
    const bool more = i + together < args.num_tiles;
    auto next = tile;
    if (more) next = block.tile_at(i + together);
    if (ahead && more) block.start_patch(1 - which, next);
    block.multiply(which);
    if (ahead) {
      which = 1 - which;
    } else if (more) {
      block.synchronize();
      block.start_patch(which, next);
    }
    block.store(tile);
    tile = next;
  }
}

}  // namespace cks::cuda

#include "ops_cuda/hopper/halved_input.h"

#include <algorithm>
#include <bit>

#include "ops_cuda/hopper/schedule.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda::hopper {
namespace {

constexpr int kLargestCluster = 8;

}  // namespace

HalvedInput::HalvedInput(const Problem& p, int multiprocessors)
    : images(p.N),
      pixels(volume(p.input)),
      channels(p.filter.C),
      x2_channels(p.x2_channels),
      pixel_scales(is_pointwise(p) && p.N == 1 && p.input[0] * p.input[1] == 1),  // as joined_pixels leaves it
      multiprocessors(multiprocessors) {}

int64_t HalvedInput::pitch() const { return round_up(channels, kHalvedBlock); }

size_t HalvedInput::scales_at() const {
  return size_t(round_up(images * pixels * pitch() * int64_t(sizeof(uint16_t)), kWorkspaceAlignment));
}

size_t HalvedInput::bytes() const {
  return scales_at() + size_t(scales() + (pixel_scales ? 0 : images * blocks_of_image())) * sizeof(float);
}

int HalvedInput::cluster() const {
  const int64_t least = ceil_div(quads_of_image(), kThreads * kMostHeld);
  if (pixel_scales || x2_channels > 0 || channels != pitch() || least > kLargestCluster) return 0;
  const int64_t wanted = std::min(ceil_div(quads_of_image(), kThreads * kBatch), 2 * multiprocessors / images);
  return int(std::bit_ceil(uint64_t(std::clamp<int64_t>(wanted, least, kLargestCluster))));
}

int HalvedInput::blocks_of_image() const {
  const int64_t wanted = ceil_div(quads_of_image(), kBatch * kThreads);
  return int(std::clamp<int64_t>(wanted, 1, ceil_div(int64_t(multiprocessors) * 8, images)));
}

}  // namespace cks::cuda::hopper

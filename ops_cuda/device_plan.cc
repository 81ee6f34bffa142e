#include "ops_cuda/device_plan.h"

#include <cstring>

#include "ops_cuda/private_stream.h"

namespace cks::cuda {
namespace {

Int3 at(const Index3& origin, const Index3& step, const Index3& q) {
  return {origin[0] + step[0] * q[0], origin[1] + step[1] * q[1], origin[2] + step[2] * q[2]};
}

WorkTile lower(const Tile& tile, const Phase& phase) {
  return {tile.n,
          tile.extent_n,
          to_int3(tile.extent),
          at({0, 0, 0}, phase.in_step, tile.origin),
          to_int3(phase.in_step),
          at(phase.first, phase.step, tile.origin),
          to_int3(phase.step),
          tile.first_tap,
          tile.num_taps};
}

// Taps first: they are read as 16-byte vectors.
std::vector<char> serialize(const Plan& plan) {
  std::vector<WorkTap> taps;
  taps.reserve(plan.taps.size());
  for (const Tap& tap : plan.taps) taps.push_back({to_int3(tap.offset), tap.filter});
  std::vector<WorkTile> tiles;
  tiles.reserve(plan.tiles.size());
  for (const Tile& tile : plan.tiles) tiles.push_back(lower(tile, plan.phases[tile.phase]));

  std::vector<char> bytes(taps.size() * sizeof(WorkTap) + tiles.size() * sizeof(WorkTile));
  if (!taps.empty()) std::memcpy(bytes.data(), taps.data(), taps.size() * sizeof(WorkTap));
  if (!tiles.empty())
    std::memcpy(bytes.data() + taps.size() * sizeof(WorkTap), tiles.data(), tiles.size() * sizeof(WorkTile));
  return bytes;
}

}  // namespace

DeviceCopy::DeviceCopy(const void* host, size_t bytes) {
  if (bytes == 0) return;
  const PrivateStream stream;
  check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes), "allocating memory for a plan");
  // A copy from pageable memory may return before it has arrived; kernels run on streams that do not wait for it.
  cudaError_t status = cudaMemcpyAsync(data_, host, bytes, cudaMemcpyHostToDevice, stream.get());
  if (status == cudaSuccess) status = cudaStreamSynchronize(stream.get());
  if (status != cudaSuccess) cudaFree(data_);
  check(status, "copying a plan to the device");
}

DeviceCopy::~DeviceCopy() {
  const RelaxedCapture relaxed;
  cudaFree(data_);  // waits for the kernels that still read it
}

DevicePlan::DevicePlan(const Plan& plan)
    : taps_bytes_(plan.taps.size() * sizeof(WorkTap)), num_tiles_(int64_t(plan.tiles.size())), copy_([&] {
        const std::vector<char> bytes = serialize(plan);
        return DeviceCopy(bytes.data(), bytes.size());
      }()) {}

}  // namespace cks::cuda

// The plan as the GPU reads it: one allocation, copied once for each set of shapes.
#pragma once
#include <cstddef>
#include <cstdint>

#include "plan/plan.h"

namespace cks::cuda {

struct Int3 {
  int32_t d, h, w;
};

inline Int3 to_int3(const Index3& v) { return {v[0], v[1], v[2]}; }
inline Int3 to_int3(const Dims& v) { return {int32_t(v[0]), int32_t(v[1]), int32_t(v[2])}; }

// A tile of the plan with its phase folded in: a kernel needs no pad, stride or dilation. Pixel (n, q) of the tile, q
// in [0, extent), reads input pixels in_origin + q * in_step + offset of a tap, and is output pixel out_origin + q *
// out_step.
struct WorkTile {
  int32_t n, extent_n;
  Int3 extent, in_origin, in_step, out_origin, out_step;
  int32_t first_tap, num_taps;
};

struct WorkTap {
  Int3 offset;
  int32_t filter;
};
static_assert(sizeof(WorkTap) == 16, "kernels read a tap as one int4");

// An owned block of device memory that holds a copy of `bytes` bytes. The copy has arrived when the constructor
// returns.
class DeviceCopy {
 public:
  DeviceCopy(const void* host, size_t bytes);
  ~DeviceCopy();
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  const char* data() const { return data_; }

 private:
  char* data_ = nullptr;
};

class DevicePlan {
 public:
  explicit DevicePlan(const Plan&);
  const WorkTile* tiles() const { return reinterpret_cast<const WorkTile*>(copy_.data() + taps_bytes_); }
  const WorkTap* taps() const { return reinterpret_cast<const WorkTap*>(copy_.data()); }
  int64_t num_tiles() const { return num_tiles_; }

 private:
  size_t taps_bytes_;
  int64_t num_tiles_;
  DeviceCopy copy_;
};

}  // namespace cks::cuda

// What a kernel family offers to the dispatch in convolution.cc.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "ops_cuda/convolution.h"
#include "ops_cuda/hopper/tensor_limits.h"

namespace cks::cuda {

struct Device {
  int capability;  // 75, 80, 90, ...
  int multiprocessors;
  int shared_bytes;  // of a multiprocessor
};

Device current_device();

// Shared memory of a thread block where two share a multiprocessor, so that one copies while the other computes; CUDA
// keeps 1 KB of each.
inline int half_of_shared(const Device& device) { return device.shared_bytes / 2 - 1024; }

// Tensor cores know fp16 since sm_75, bf16 and tf32 (of which strict floats are made) since sm_80.
inline bool has_tensor_cores(DataType type, const Device& device) {
  return device.capability >= (type == DataType::kHalf ? 75 : 80);
}

// Kernels that move 16 bytes at a time need tensors that begin at a multiple of 16, as ONNX Runtime's do; what a user
// binds may not.
inline void require_aligned(const void* tensor, const char* name) {
  if (reinterpret_cast<uintptr_t>(tensor) % 16 == 0) return;
  throw Error(std::string(name) +
              " begins at a device address that is not a multiple of 16 bytes: copy it to one that is");
}

// A planned convolution on one kernel; the members mean what Convolution's do. Never made for an empty output.
class ConvolutionKernel {
 public:
  virtual ~ConvolutionKernel() = default;
  virtual size_t workspace_bytes() const = 0;
  virtual void run(InputTensors, const void* packed_filter, const void* bias, const void* residual, void* y,
                   void* workspace, Stream) const = 0;
  virtual const char* name() const = 0;
};

// For kernels that read one tensor: copies X and X2 into one, in front of a convolution that was made without X2.
std::unique_ptr<ConvolutionKernel> make_concatenated_conv(const ConvolutionSpec&, std::unique_ptr<ConvolutionKernel>);

// sm_90a: TMA and wgmma, for NHWC tensors. A tile does not span groups; a tensor map wants rows of whole 16 bytes (X is
// brought to that, from NCHW too), and steps over a few elements at most.
inline bool hopper_takes(const FilterUse& use, const Device& device) {
  return device.capability == 90 && use.layouts.y == Layout::kNHWC && use.filter.groups == 1 &&
         use.filter.K * int64_t(size_of(use.type)) % 16 == 0 &&
         std::ranges::all_of(use.stride, [](int64_t stride) { return stride <= hopper::kMaxElementStride; });
}
std::unique_ptr<ConvolutionKernel> make_hopper_conv(const ConvolutionSpec&);
bool is_hopper_tile(const ConvolutionSpec&, const std::string& tile);
std::vector<std::string> hopper_tile_choices(const ConvolutionSpec&, size_t most);
size_t hopper_filter_bytes(const FilterUse&);
void pack_hopper_filter(const FilterUse&, const void* w_onnx, void* packed, Stream);

// Few input channels (of a group), whose taps and channels are summed as one index; few output channels, whose products
// are made pixel by pixel and then summed at the outputs they reach. Both read the filter as the matrix product does.
struct FewInputsPlan;
std::unique_ptr<ConvolutionKernel> make_few_inputs_conv(const ConvolutionSpec&, const FewInputsPlan&, const Device&);
std::unique_ptr<ConvolutionKernel> make_few_outputs_conv(const ConvolutionSpec&, const Device&);

// Depthwise: each channel its own group, of one output.
std::unique_ptr<ConvolutionKernel> make_depthwise_conv(const ConvolutionSpec&, const Device&);

std::unique_ptr<ConvolutionKernel> make_portable_conv(const ConvolutionSpec&, const Device&);
std::unique_ptr<ConvolutionKernel> make_direct_conv(const ConvolutionSpec&, const Device&);

// A planned weight gradient on one kernel; the members mean what WeightGradient's do.
class WeightGradientKernel {
 public:
  virtual ~WeightGradientKernel() = default;
  virtual size_t workspace_bytes() const = 0;
  virtual void run(const void* x, const void* dy, void* dw, void* workspace, Stream) const = 0;
  virtual const char* name() const = 0;
};

// sm_90a: TMA and wgmma, for NHWC tensors whose channels fill 16 bytes. None where that is expected to take so many
// cycles or more.
bool hopper_takes_gradient(const Problem&, DataType, Layout, const Device&);
std::unique_ptr<WeightGradientKernel> make_hopper_gradient(const Problem&, DataType, Precision, double cycles);

// Floats in NHWC whose channels fill 16 bytes, where few pixels are summed: one launch without a workspace.
struct FewPixelsPlan;
bool few_pixels_takes_gradient(const Problem&, DataType, Layout, const Device&);
std::optional<FewPixelsPlan> plan_few_pixels(const Problem&, Precision, const Device&);
std::unique_ptr<WeightGradientKernel> make_few_pixels_gradient(const Problem&, Precision, const FewPixelsPlan&);

}  // namespace cks::cuda

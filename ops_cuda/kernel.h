// What a kernel family offers to the dispatch in convolution.cc.
#pragma once
#include <memory>

#include "ops_cuda/convolution.h"

namespace cks::cuda {

struct Device {
  int capability;  // 75, 80, 90, ...
  int multiprocessors;
  int shared_bytes;  // of a multiprocessor
};

Device current_device();

// What a Convolution was made from.
struct ConvolutionSpec {
  Problem problem;
  DataType type;
  Layout layout;
  Precision precision;
  Activation activation;
};

// A planned convolution on one kernel; the members mean what Convolution's do. Never made for an empty output.
class ConvolutionKernel {
 public:
  virtual ~ConvolutionKernel() = default;
  virtual size_t workspace_bytes() const = 0;
  virtual void run(const void* x, const void* packed_filter, const void* bias, const void* residual, void* y,
                   void* workspace, Stream) const = 0;
  virtual const char* name() const = 0;
};

// sm_90a: TMA and wgmma, for NHWC tensors whose channels fill 16 bytes.
bool hopper_takes(const ConvolutionSpec&, const Device&);
std::unique_ptr<ConvolutionKernel> make_hopper_conv(const ConvolutionSpec&);

std::unique_ptr<ConvolutionKernel> make_portable_conv(const ConvolutionSpec&, const Device&);
std::unique_ptr<ConvolutionKernel> make_direct_conv(const ConvolutionSpec&, const Device&);

}  // namespace cks::cuda

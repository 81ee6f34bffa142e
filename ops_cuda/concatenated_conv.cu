// Concat([X, X2]) on the channel axis, of NHWC tensors, for convolutions whose kernel reads one tensor.
#include <algorithm>
#include <bit>

#include "ops_cuda/kernel.h"
#include "ops_cuda/launch.cuh"
#include "ops_cuda/ptx.cuh"

namespace cks::cuda {
namespace {

constexpr int kThreads = 256;

// Units of a pixel, of which x has the first. A row of threads takes a pixel, so that nothing is divided.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    concatenate(const Unit* x, const Unit* x2, Unit* to, int64_t pixels, int x_units, int units) {
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  const int64_t step = int64_t(gridDim.x) * blockDim.y;
  for (int64_t pixel = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; pixel < pixels; pixel += step) {
    for (int i = threadIdx.x; i < units; i += blockDim.x)
      to[pixel * units + i] = i < x_units ? x[pixel * x_units + i] : x2[pixel * (units - x_units) + i - x_units];
  }
}

class ConcatenatedConv : public ConvolutionKernel {
 public:
  ConcatenatedConv(const ConvolutionSpec& spec, std::unique_ptr<ConvolutionKernel> convolution)
      : convolution_(std::move(convolution)),
        name_(std::string(convolution_->name()) + ", of a copy"),
        pixels_(spec.problem.N * volume(spec.problem.input)),
        bytes_(spec.problem.filter.C * int64_t(size_of(spec.type))),
        x2_bytes_(spec.problem.x2_channels * int64_t(size_of(spec.type))) {}

  size_t workspace_bytes() const override { return copy_bytes() + convolution_->workspace_bytes(); }
  const char* name() const override { return name_.c_str(); }

  void run(InputTensors input, const void* filter, const void* bias, const void* residual, void* y, void* workspace,
           Stream stream) const override {
    const uintptr_t places = reinterpret_cast<uintptr_t>(input.x) | reinterpret_cast<uintptr_t>(input.x2) |
                             uintptr_t(bytes_) | uintptr_t(x2_bytes_);
    if (places % sizeof(uint4) == 0)
      copy<uint4>(input, workspace, stream);
    else if (places % sizeof(uint32_t) == 0)
      copy<uint32_t>(input, workspace, stream);
    else
      copy<uint16_t>(input, workspace, stream);
    convolution_->run(workspace, filter, bias, residual, y, static_cast<char*>(workspace) + copy_bytes(), stream);
  }

 private:
  size_t copy_bytes() const { return size_t(round_up(pixels_ * bytes_, kWorkspaceAlignment)); }

  template <class Unit>
  void copy(InputTensors input, void* to, Stream stream) const {
    const int units = int(bytes_ / int64_t(sizeof(Unit))), x2_units = int(x2_bytes_ / int64_t(sizeof(Unit)));
    const unsigned across = std::min(std::bit_ceil(unsigned(units)), unsigned(kThreads)), down = kThreads / across;
    const int64_t blocks = std::clamp<int64_t>(ceil_div(pixels_, down), 1, 1 << 20);
    launch_dependent("launching the kernel that concatenates X and X2", concatenate<Unit>, dim3(unsigned(blocks)),
                     dim3(across, down), stream, static_cast<const Unit*>(input.x), static_cast<const Unit*>(input.x2),
                     static_cast<Unit*>(to), pixels_, units - x2_units, units);
  }

  std::unique_ptr<ConvolutionKernel> convolution_;
  std::string name_;
  int64_t pixels_, bytes_, x2_bytes_;  // of a pixel
};

}  // namespace

std::unique_ptr<ConvolutionKernel> make_concatenated_conv(const ConvolutionSpec& spec,
                                                          std::unique_ptr<ConvolutionKernel> convolution) {
  return std::make_unique<ConcatenatedConv>(spec, std::move(convolution));
}

}  // namespace cks::cuda

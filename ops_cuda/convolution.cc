#include "ops_cuda/convolution.h"

#include "ops_cuda/error.h"
#include "ops_cuda/kernel_choice.h"

namespace cks::cuda {

Device current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "looking for a GPU");
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "asking what the GPU is");
    return value;
  };
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
}

namespace {

std::unique_ptr<ConvolutionKernel> make_kernel(const ConvolutionSpec& spec, const Device& device) {
  switch (choose_family(spec, device)) {
    case Family::kDepthwise:
      return make_depthwise_conv(spec, device);
    case Family::kDirect:
      return make_direct_conv(spec, device);
    case Family::kFewInputs:
      return make_few_inputs_conv(spec, device);
    case Family::kFewOutputs:
      return make_few_outputs_conv(spec, device);
    case Family::kMatrixProduct:
      break;
  }
#ifdef ORT_CKS_HOPPER
  if (hopper_takes(spec, device)) return make_hopper_conv(spec);
#endif
  return make_portable_conv(spec, device);
}

}  // namespace

struct Convolution::Impl {
  std::unique_ptr<ConvolutionKernel> kernel;  // null for an empty output
};

Convolution::Convolution(const Problem& problem, DataType type, Layout layout, Precision precision,
                         const Activation& activation)
    : impl_(std::make_unique<Impl>()) {
  if (problem.N * volume(problem.output) * problem.filter.K == 0) return;
  const ConvolutionSpec spec{problem, type, layout, precision, activation};
  const Device device = current_device();
  impl_->kernel = make_kernel(spec, device);
}

Convolution::~Convolution() = default;

size_t Convolution::workspace_bytes() const { return impl_->kernel ? impl_->kernel->workspace_bytes() : 0; }

void Convolution::run(const void* x, const void* packed_filter, const void* bias, const void* residual, void* y,
                      void* workspace, Stream stream) const {
  if (impl_->kernel) impl_->kernel->run(x, packed_filter, bias, residual, y, workspace, stream);
}

const char* Convolution::kernel_name() const { return impl_->kernel ? impl_->kernel->name() : "none (empty output)"; }

}  // namespace cks::cuda

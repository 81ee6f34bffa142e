#include "ops_cuda/convolution.h"

#include <optional>

#include "ops_cuda/error.h"
#include "ops_cuda/kernel_choice.h"
#include "ops_cuda/pack.h"

namespace cks::cuda {

Device current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "looking for a GPU");
  // Kept, because weights that are not constant are packed, and so their form is chosen, in every run.
  thread_local int known = -1;
  thread_local Device kept{};
  if (device == known) return kept;
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "asking what the GPU is");
    return value;
  };
  kept = {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
  known = device;
  return kept;
}

namespace {

#ifdef ORT_CKS_HOPPER
bool is_on_hopper(const FilterUse& use, const Device& device) {
  return choose_form(use, device) == FilterForm::kHopper;
}
#endif

// X and X2 must be copied into one tensor first.
bool wants_one_input(const ConvolutionSpec& spec, const Choice& choice, const Device& device) {
  return spec.problem.x2_channels > 0 && !reads_x2(choice, spec, device);
}

ConvolutionSpec with_one_input(ConvolutionSpec spec) {
  spec.problem.x2_channels = 0;
  return spec;
}

ConvolutionSpec with_joined_pixels(ConvolutionSpec spec) {
  spec.problem = joined_pixels(spec.problem, spec.layouts);
  return spec;
}

std::unique_ptr<ConvolutionKernel> make_kernel(const ConvolutionSpec& spec, const Choice& choice,
                                               const Device& device) {
  if (wants_one_input(spec, choice, device))
    return make_concatenated_conv(spec, make_kernel(with_one_input(spec), choice, device));
  switch (choice.family) {
    case Family::kDepthwise:
      return make_depthwise_conv(spec, device);
    case Family::kDirect:
      return make_direct_conv(spec, device);
    case Family::kFewInputs:
      return make_few_inputs_conv(spec, *choice.few_inputs, device);
    case Family::kFewOutputs:
      return make_few_outputs_conv(spec, device);
    case Family::kMatrixProduct:
      break;
  }
#ifdef ORT_CKS_HOPPER
  if (is_on_hopper(spec.use(), device)) return make_hopper_conv(spec);
#endif
  return make_portable_conv(spec, device);
}

}  // namespace

struct Convolution::Impl {
  std::unique_ptr<ConvolutionKernel> kernel;  // null for an empty output
};

size_t packed_filter_bytes(const FilterUse& use) {
#ifdef ORT_CKS_HOPPER
  if (is_on_hopper(use, current_device())) return hopper_filter_bytes(use);
#endif
  return portable_filter_bytes(use);
}

void pack_filter(const FilterUse& use, const void* w, void* packed, Stream stream) {
#ifdef ORT_CKS_HOPPER
  if (is_on_hopper(use, current_device())) return pack_hopper_filter(use, w, packed, stream);
#endif
  pack_portable_filter(use, w, packed, stream);
}

Convolution::Convolution(const ConvolutionSpec& spec) : impl_(std::make_unique<Impl>()) {
  const Problem& p = spec.problem;
  if (p.N * volume(p.output) * p.filter.K == 0) return;
  const ConvolutionSpec joined = with_joined_pixels(spec);
  const Device device = current_device();
  impl_->kernel = make_kernel(joined, choose_family(joined, device), device);
}

Convolution::~Convolution() = default;

#ifdef ORT_CKS_HOPPER
namespace {

// What the Hopper kernel computes of this convolution, where it is the one to serve it.
std::optional<ConvolutionSpec> for_hopper(const ConvolutionSpec& spec, const Device& device) {
  const ConvolutionSpec joined = with_joined_pixels(spec);
  const Choice choice = choose_family(joined, device);
  if (wants_one_input(joined, choice, device)) return for_hopper(with_one_input(joined), device);
  if (choice.family != Family::kMatrixProduct || !is_on_hopper(spec.use(), device)) return {};
  return joined;
}

}  // namespace

bool has_tile_choices(const ConvolutionSpec& spec) { return for_hopper(spec, current_device()).has_value(); }

bool is_tile_choice(const ConvolutionSpec& spec, const std::string& tile) {
  const std::optional<ConvolutionSpec> served = for_hopper(spec, current_device());
  return served && is_hopper_tile(*served, tile);
}

std::vector<std::string> tile_choices(const ConvolutionSpec& spec, size_t most) {
  const std::optional<ConvolutionSpec> served = for_hopper(spec, current_device());
  return served ? hopper_tile_choices(*served, most) : std::vector<std::string>{};
}
#else
bool has_tile_choices(const ConvolutionSpec&) { return false; }
bool is_tile_choice(const ConvolutionSpec&, const std::string&) { return false; }
std::vector<std::string> tile_choices(const ConvolutionSpec&, size_t) { return {}; }
#endif

size_t Convolution::workspace_bytes() const { return impl_->kernel ? impl_->kernel->workspace_bytes() : 0; }

void Convolution::run(InputTensors input, const void* packed_filter, const void* bias, const void* residual, void* y,
                      void* workspace, Stream stream) const {
  if (impl_->kernel) impl_->kernel->run(input, packed_filter, bias, residual, y, workspace, stream);
}

const char* Convolution::kernel_name() const { return impl_->kernel ? impl_->kernel->name() : "none (empty output)"; }

}  // namespace cks::cuda

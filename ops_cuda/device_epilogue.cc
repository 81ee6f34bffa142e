#include "ops_cuda/device_epilogue.h"

namespace cks::cuda {
namespace {

std::vector<float> padded(std::vector<float> slopes) {
  slopes.resize(size_t(round_up(int64_t(slopes.size()), kSlopeGroup)));
  return slopes;
}

DeviceCopy copy_of(const std::vector<float>& v) { return {v.data(), v.size() * sizeof(float)}; }

}  // namespace

DeviceEpilogue::DeviceEpilogue(const ConvolutionSpec& spec)
    : kind_(spec.activation.kind),
      alpha_(spec.activation.alpha),
      beta_(spec.activation.beta),
      residual_slope_(1 / spec.residual_alpha),
      slopes_(copy_of(padded(spec.activation.slopes))) {}

Epilogue DeviceEpilogue::of(const void* bias, const void* residual, void* y) const {
  return {bias, residual, y, kind_, alpha_, beta_, residual_slope_, reinterpret_cast<const float*>(slopes_.data())};
}

}  // namespace cks::cuda

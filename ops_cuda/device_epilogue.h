// What a kernel family keeps of its epilogue from run to run.
#pragma once
#include "ops_cuda/convolution.h"
#include "ops_cuda/device_plan.h"
#include "ops_cuda/epilogue.h"

namespace cks::cuda {

class DeviceEpilogue {
 public:
  explicit DeviceEpilogue(const ConvolutionSpec&);
  // With the tensors of a run.
  Epilogue of(const void* bias, const void* residual, void* y) const;

 private:
  ActivationKind kind_;
  float alpha_, beta_, residual_slope_;
  DeviceCopy slopes_;
};

}  // namespace cks::cuda

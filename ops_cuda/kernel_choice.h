// Which kernel serves a convolution: a pure function of the problem and the device, tested without a GPU.
#pragma once
#include <optional>

#include "ops_cuda/few_inputs_plan.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda {

enum class Family {
  kDepthwise,      // depthwise.cu
  kDirect,         // direct_conv.cu: what else has one input channel a group, and hardly more outputs
  kFewInputs,      // few_inputs_conv.cuh
  kFewOutputs,     // few_outputs_conv.cuh
  kMatrixProduct,  // the Hopper or the portable implicit GEMM
};
struct Choice {
  Family family;
  std::optional<FewInputsPlan> few_inputs{};  // how kFewInputs cuts it, on which the choice depends
};
Choice choose_family(const ConvolutionSpec&, const Device&);

// The form a filter is packed in before shapes are known. Every family reads the portable form. On Hopper floats have
// one of their own, which the Hopper kernel alone reads: what may go to another family once shapes are known, does not
// get it. (16-bit filters look the same in both.)
enum class FilterForm { kPortable, kHopper };
FilterForm choose_form(const FilterUse&, const Device&);

// Whether a family that serves it reads X2 in place. Others want X and X2 copied into one tensor first.
bool reads_x2(const Choice&, const ConvolutionSpec&, const Device&);

// What a family can serve at all, be it the best choice or not.
bool depthwise_can(const ConvolutionSpec&);
bool few_outputs_can(const ConvolutionSpec&, const Device&);

}  // namespace cks::cuda

// A convolution as one line of text, under which what was measured of it is kept.
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda {

// Two lines are the same where the same tile is the fastest: they say everything that the kernels' time depends on, but
// for the GPU.
std::string problem_text(const ConvolutionSpec&, bool has_residual);

}  // namespace cks::cuda

// Makes halves of X (halved_input.h).
#pragma once
#include "ops_cuda/convolution.h"
#include "ops_cuda/hopper/halved_input.h"

namespace cks::cuda::hopper {

// One launch, or two where neither a cluster can hold an image nor each pixel has a scale of its own.
void halve(const HalvedInput&, InputTensors, void* halves, Stream);

}  // namespace cks::cuda::hopper

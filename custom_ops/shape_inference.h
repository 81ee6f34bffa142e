// Output shapes, while a session is being built: ONNX Runtime's layout and transpose passes skip values of unknown
// rank.
#pragma once
#include <vector>

#include "custom_ops/attributes.h"
#include "custom_ops/ort_api.h"

namespace cks::ort {

// The shape of dW from those of X and dY; an unknown extent is -1, in and out.
std::vector<int64_t> gradient_shape(const NodeAttributes&, const Shape& x, const Shape& dy);

// Sets the output's shape where the inputs' ranks are known. Throws Error for what cannot be; ONNX Runtime ignores it,
// and the kernel will say it again.
void infer_shape(const OrtApi&, OpKind, OrtShapeInferContext*);

}  // namespace cks::ort

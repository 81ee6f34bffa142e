#include "custom_ops/shape_inference.h"

#include <memory>

namespace cks::ort {
namespace {

const OrtTensorTypeAndShapeInfo* input_shape(const OrtApi& api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
  check(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  return info;
}

// The name that the model gives to the first axis, "" where it has none.
const char* batch_name(const OrtApi& api, const OrtTensorTypeAndShapeInfo* x, size_t rank) {
  std::vector<const char*> names(rank, "");
  check(api, api.GetSymbolicDimensions(x, names.data(), rank));
  return names[0];
}

}  // namespace

std::vector<int64_t> gradient_shape(const NodeAttributes& node, const Shape& x, const Shape& dy) {
  const Attributes& a = node.convolution;
  if (x.rank != dy.rank || x.rank != a.kernel_shape.size() + 2) {
    throw Error("X and dY have ranks " + std::to_string(x.rank) + " and " + std::to_string(dy.rank) +
                "; with this kernel_shape both must have " + std::to_string(a.kernel_shape.size() + 2));
  }
  const size_t channel_axis = node.layout == Layout::kNCHW ? 1 : x.rank - 1;
  const int64_t C = x.dims[channel_axis], K = dy.dims[channel_axis];
  if (a.group < 1 || (C >= 0 && C % a.group)) {
    throw Error("group is " + std::to_string(a.group) + "; it must divide the " + std::to_string(C) + " channels of X");
  }
  std::vector<int64_t> shape{K, C < 0 ? -1 : C / a.group};
  shape.insert(shape.end(), a.kernel_shape.begin(), a.kernel_shape.end());
  return shape;
}

void infer_shape(const OrtApi& api, OpKind kind, OrtShapeInferContext* context) {
  const OrtTensorTypeAndShapeInfo* x_info = input_shape(api, context, 0);
  const Shape x = shape_of(api, x_info);
  const Shape second = shape_of(api, input_shape(api, context, 1));
  if (x.rank == 0 || second.rank == 0) return;  // how ONNX Runtime hands in an unknown rank

  const NodeAttributes node = read_attributes(InferenceAttributes(api, context), kind);
  const bool is_gradient = kind == OpKind::kSkDilatedWeightGrad;
  const std::vector<int64_t> shape =
      is_gradient ? gradient_shape(node, x, second) : infer_output_shape(node.convolution, x, second, node.layout);
  if (shape.empty()) return;

  OrtTensorTypeAndShapeInfo* output = nullptr;
  check(api, api.CreateTensorTypeAndShapeInfo(&output));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> release(
      output, api.ReleaseTensorTypeAndShapeInfo);
  ONNXTensorElementDataType type;  // newer runtimes take the output's type from here, older ones do not look
  check(api, api.GetTensorElementType(x_info, &type));
  check(api, api.SetTensorElementType(output, type));
  check(api, api.SetDimensions(output, shape.data(), shape.size()));
  std::vector<const char*> names(shape.size(), "");
  if (!is_gradient) names[0] = batch_name(api, x_info, x.rank);
  check(api, api.SetSymbolicDimensions(output, names.data(), names.size()));
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, 0, output));
}

}  // namespace cks::ort

#include "custom_ops/shape_inference.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace cks::ort {
namespace {

const OrtTensorTypeAndShapeInfo* input_shape(const OrtApi& api, const OrtShapeInferContext* context, size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the context's
  check(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  return info;
}

// The names that the model gives to the axes, "" where it has none.
std::vector<const char*> axis_names(const OrtApi& api, const OrtTensorTypeAndShapeInfo* x, size_t rank) {
  std::vector<const char*> names(rank, "");
  check(api, api.GetSymbolicDimensions(x, names.data(), rank));
  return names;
}

// A name for each extent that is unknown, "" for those that are known. ONNX Runtime believes an extent without a name,
// even -1: it would compute other extents from it, and let tensors share a buffer because both are -1 long. So those
// that the model has no name for get one that nothing else has. known: the names of the first axes.
std::vector<std::string> extent_names(const std::vector<int64_t>& shape, const std::vector<const char*>& known) {
  static std::atomic<uint64_t> named = 0;
  std::vector<std::string> names(shape.size());
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] >= 0) continue;
    if (axis < known.size()) names[axis] = known[axis];
    if (names[axis].empty()) names[axis] = "ort_cks_extent_" + std::to_string(++named);
  }
  return names;
}

// Of Y, from the shape of X.
std::vector<int64_t> pooled_shape(const Attributes& a, const Shape& x) {
  std::vector<int64_t> window{x.dims[x.rank - 1], 1};  // as weights have it
  window.insert(window.end(), a.kernel_shape.begin(), a.kernel_shape.end());
  return infer_output_shape(a, x, window, Layout::kNHWC);
}

// Of Y or dW; empty where nothing can be said.
std::vector<int64_t> output_shape(const OrtApi& api, OpKind kind, OrtShapeInferContext* context, const Shape& x) {
  const NodeAttributes node = read_attributes(InferenceAttributes(api, context), kind);
  if (kind == OpKind::kMaxPoolNhwc) return pooled_shape(node.convolution, x);
  const Shape second = shape_of(api, input_shape(api, context, 1));
  if (second.rank == 0) return {};
  if (kind == OpKind::kSkDilatedWeightGrad) return gradient_shape(node, x, second);
  return infer_output_shape(node.convolution, x, second, node.layouts);
}

void set_output(const OrtApi& api, OrtShapeInferContext* context, size_t index, ONNXTensorElementDataType type,
                const std::vector<int64_t>& shape, const std::vector<std::string>& names) {
  OrtTensorTypeAndShapeInfo* output = nullptr;
  check(api, api.CreateTensorTypeAndShapeInfo(&output));
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> release(
      output, api.ReleaseTensorTypeAndShapeInfo);
  // Newer runtimes take the output's type from here, older ones do not look.
  check(api, api.SetTensorElementType(output, type));
  check(api, api.SetDimensions(output, shape.data(), shape.size()));
  std::vector<const char*> pointers;
  for (const std::string& name : names) pointers.push_back(name.c_str());
  check(api, api.SetSymbolicDimensions(output, pointers.data(), pointers.size()));
  check(api, api.ShapeInferContext_SetOutputTypeShape(context, index, output));
}

ONNXTensorElementDataType element_type(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  ONNXTensorElementDataType type;
  check(api, api.GetTensorElementType(info, &type));
  return type;
}

// Of ReluEach: each output has its input's. There is no asking how many outputs a node has: ONNX Runtime before 1.28
// aborts where they are fewer than the inputs, newer ones go on to the kernel's error.
void infer_each(const OrtApi& api, OrtShapeInferContext* context) {
  size_t count = 0;
  check(api, api.ShapeInferContext_GetInputCount(context, &count));
  for (size_t i = 0; i < count; ++i) {
    const OrtTensorTypeAndShapeInfo* x = input_shape(api, context, i);
    const std::vector<int64_t> shape = dims_of(api, x);
    if (shape.empty()) continue;  // a scalar, or an unknown rank
    const std::vector<std::string> names = extent_names(shape, axis_names(api, x, shape.size()));
    set_output(api, context, i, element_type(api, x), shape, names);
  }
}

}  // namespace

std::vector<int64_t> gradient_shape(const NodeAttributes& node, const Shape& x, const Shape& dy) {
  const Attributes& a = node.convolution;
  if (x.rank != dy.rank || x.rank != a.kernel_shape.size() + 2) {
    throw Error("X and dY have ranks " + std::to_string(x.rank) + " and " + std::to_string(dy.rank) +
                "; with this kernel_shape both must have " + std::to_string(a.kernel_shape.size() + 2));
  }
  const size_t channel_axis = node.layouts.x == Layout::kNCHW ? 1 : x.rank - 1;
  const int64_t C = x.dims[channel_axis], K = dy.dims[channel_axis];
  if (a.group < 1 || (C >= 0 && C % a.group)) {
    throw Error("group is " + std::to_string(a.group) + "; it must divide the " + std::to_string(C) + " channels of X");
  }
  std::vector<int64_t> shape{K, C < 0 ? -1 : C / a.group};
  shape.insert(shape.end(), a.kernel_shape.begin(), a.kernel_shape.end());
  return shape;
}

void infer_shape(const OrtApi& api, OpKind kind, OrtShapeInferContext* context) {
  if (kind == OpKind::kReluEach) return infer_each(api, context);
  const OrtTensorTypeAndShapeInfo* x_info = input_shape(api, context, 0);
  const Shape x = shape_of(api, x_info);
  if (x.rank == 0) return;  // how ONNX Runtime hands in an unknown rank
  const std::vector<int64_t> shape = output_shape(api, kind, context, x);
  if (shape.empty()) return;

  std::vector<const char*> batch;
  if (kind != OpKind::kSkDilatedWeightGrad) batch.push_back(axis_names(api, x_info, x.rank).front());
  set_output(api, context, 0, element_type(api, x_info), shape, extent_names(shape, batch));
}

}  // namespace cks::ort

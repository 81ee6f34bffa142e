#include "custom_ops/ort_api.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>

namespace cks::ort {
namespace {

auto info_of(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  return std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)>(
      info, api.ReleaseTensorTypeAndShapeInfo);
}

}  // namespace

Shape to_shape(std::span<const int64_t> dims) {
  if (dims.size() > Shape::kMaxRank)
    throw Error("an input has rank " + std::to_string(dims.size()) + "; 5 is the most");
  Shape shape;
  shape.rank = dims.size();
  std::ranges::copy(dims, shape.dims.begin());
  return shape;
}

int64_t elements(std::span<const int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::string to_string(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Shape shape_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  Shape shape;
  check(api, api.GetDimensionsCount(info, &shape.rank));
  if (shape.rank > Shape::kMaxRank) throw Error("an input has rank " + std::to_string(shape.rank) + "; 5 is the most");
  check(api, api.GetDimensions(info, shape.dims.data(), shape.rank));
  return shape;
}

std::vector<int64_t> dims_of(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank));
  std::vector<int64_t> dims(rank);
  check(api, api.GetDimensions(info, dims.data(), rank));
  return dims;
}

Shape shape_of(const OrtApi& api, const OrtValue* value) { return shape_of(api, info_of(api, value).get()); }

std::vector<int64_t> dims_of(const OrtApi& api, const OrtValue* value) {
  return dims_of(api, info_of(api, value).get());
}

const void* data_of(const OrtApi& api, const OrtValue* value) {
  void* data = nullptr;
  check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

bool is_in_cpu_memory(const OrtApi& api, const OrtValue* value) {
  const OrtMemoryInfo* memory = nullptr;
  check(api, api.GetTensorMemoryInfo(value, &memory));
  OrtMemoryInfoDeviceType device;
  api.MemoryInfoGetDeviceType(memory, &device);
  return device == OrtMemoryInfoDeviceType_CPU;
}

std::string node_name(const OrtApi& api, const OrtKernelInfo* info) {
  size_t size = 0;
  check(api, api.KernelInfo_GetNodeName(info, nullptr, &size));
  std::string name(size, '\0');
  check(api, api.KernelInfo_GetNodeName(info, name.data(), &size));
  name.resize(size ? size - 1 : 0);  // size counts the closing NUL
  return name;
}

size_t input_count(const OrtApi& api, const OrtKernelInfo* info) {
  size_t count = 0;
  check(api, api.KernelInfo_GetInputCount(info, &count));
  return count;
}

size_t output_count(const OrtApi& api, const OrtKernelInfo* info) {
  size_t count = 0;
  check(api, api.KernelInfo_GetOutputCount(info, &count));
  return count;
}

const OrtValue* constant_input(const OrtApi& api, const OrtKernelInfo* info, size_t index) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  return is_constant ? value : nullptr;
}

const OrtValue* input(const OrtApi& api, const OrtKernelContext* context, size_t index) {
  const OrtValue* value = nullptr;
  check(api, api.KernelContext_GetInput(context, index, &value));
  return value;
}

void* allocate_output(const OrtApi& api, OrtKernelContext* context, std::span<const int64_t> shape, size_t index) {
  OrtValue* value = nullptr;
  check(api, api.KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api, api.GetTensorMutableData(value, &data));
  return data;
}

void log_message(const OrtApi& api, const OrtKernelContext* context, OrtLoggingLevel level,
                 const std::string& message) {
  const OrtLogger* logger = nullptr;
  check(api, api.KernelContext_GetLogger(context, &logger));
  check(api, api.Logger_LogMessage(logger, level, message.c_str(), "ort_cks", 0, "ort_cks"));
}

}  // namespace cks::ort

#include "custom_ops/op.h"

#include "custom_ops/cpu_provider.h"
#include "custom_ops/kernel.h"
#include "custom_ops/shape_inference.h"
#ifdef ORT_CKS_CUDA
#include "custom_ops/cuda_provider.h"
#endif

namespace cks::ort {
namespace {

const char* name_of(OpKind kind) {
  switch (kind) {
    case OpKind::kConvV2:
      return "ConvV2";
    case OpKind::kSkDilated:
      return "SkDilated";
    case OpKind::kKSDeconv:
      return "KSDeconv";
    case OpKind::kSkDilatedWeightGrad:
      return "SkDilatedWeightGrad";
    case OpKind::kMaxPoolNhwc:
      return "MaxPoolNhwc";
    case OpKind::kReluEach:
      return "ReluEach";
  }
  return "";
}

ONNXTensorElementDataType element_type(DataType type) {
  switch (type) {
    case DataType::kFloat:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DataType::kHalf:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DataType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

template <class Provider>
std::unique_ptr<Kernel> make_kernel(const KernelArguments& arguments) {
  switch (arguments.kind) {
    case OpKind::kSkDilatedWeightGrad:
      return make_weight_gradient_kernel<Provider>(arguments);
    case OpKind::kMaxPoolNhwc:
      return make_max_pool_kernel<Provider>(arguments);
    case OpKind::kReluEach:
      return make_relu_each_kernel<Provider>(arguments);
    default:
      return make_convolution_kernel<Provider>(arguments);
  }
}

}  // namespace

Op::Op(const OrtApi& api, OpKind kind, DataType type, ProviderKind provider, Tuning* tuning)
    : OrtCustomOp{}, api_(api), kind_(kind), type_(type), provider_(provider), tuning_(tuning) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp* op) { return name_of(self(op).kind_); };
  GetExecutionProviderType = [](const OrtCustomOp* op) { return self(op).provider_name(); };
  GetInputTypeCount = [](const OrtCustomOp* op) -> size_t { return self(op).most_inputs(); };
  GetInputType = [](const OrtCustomOp* op, size_t) { return element_type(self(op).type_); };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    if (self(op).is_variadic()) return INPUT_OUTPUT_VARIADIC;
    return index < 2 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;  // B, Z, X2
  };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  GetOutputType = [](const OrtCustomOp* op, size_t) { return element_type(self(op).type_); };
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t) {
    return self(op).is_variadic() ? INPUT_OUTPUT_VARIADIC : INPUT_OUTPUT_REQUIRED;
  };
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 2; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
  CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return self(op).create_kernel(info, kernel);
  };
  KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    Kernel& k = *static_cast<Kernel*>(kernel);
    return guarded(k.api(), k.subject(), [&] { k.run(context); });
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    return guarded(self(op).api_, name_of(self(op).kind_),
                   [&] { infer_shape(self(op).api_, self(op).kind_, context); });
  };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

size_t Op::most_inputs() const {
  if (kind_ == OpKind::kMaxPoolNhwc || is_variadic()) return 1;
  return kind_ == OpKind::kSkDilatedWeightGrad ? 2 : 5;
}

const char* Op::provider_name() const {
  return provider_ == ProviderKind::kCpu ? "CPUExecutionProvider" : "CUDAExecutionProvider";
}

OrtStatus* Op::create_kernel(const OrtKernelInfo* info, void** kernel) const noexcept {
  std::string subject = name_of(kind_);
  return guarded(api_, subject, [&] {
    subject += " node '" + node_name(api_, info) + "'";
    const KernelArguments arguments{api_, info, subject, kind_, type_, tuning_};
#ifdef ORT_CKS_CUDA
    if (provider_ == ProviderKind::kCuda) {
      *kernel = make_kernel<CudaProvider>(arguments).release();
      return;
    }
#endif
    *kernel = make_kernel<CpuProvider>(arguments).release();
  });
}

}  // namespace cks::ort

// An operator as ONNX Runtime wants it described: one OrtCustomOp for each (operator, data type, provider).
#pragma once
#include "custom_ops/attributes.h"
#include "custom_ops/ort_api.h"
#include "custom_ops/tuning.h"

namespace cks::ort {

enum class ProviderKind { kCpu, kCuda };

// The struct rather than ONNX Runtime's "lite" wrapper: that one builds wrappers for every tensor on every call and
// knows no shape inference.
class Op : public OrtCustomOp {
 public:
  Op(const OrtApi&, OpKind, DataType, ProviderKind, Tuning*);

 private:
  static const Op& self(const OrtCustomOp* op) { return *static_cast<const Op*>(op); }
  const char* provider_name() const;
  size_t most_inputs() const;                                      // one stands for all of a variadic operator's
  bool is_variadic() const { return kind_ == OpKind::kReluEach; }  // in inputs and outputs
  OrtStatus* create_kernel(const OrtKernelInfo*, void** kernel) const noexcept;

  const OrtApi& api_;
  const OpKind kind_;
  const DataType type_;
  const ProviderKind provider_;
  Tuning* const tuning_;
};

}  // namespace cks::ort

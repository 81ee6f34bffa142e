// A node's attributes: read, checked and turned into the terms of plan/problem.h. docs/ops.md describes them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "custom_ops/ort_api.h"
#include "plan/problem.h"

namespace cks::ort {

enum class OpKind { kConvV2, kSkDilated, kKSDeconv, kSkDilatedWeightGrad, kMaxPoolNhwc, kReluEach };

struct NodeAttributes {
  Attributes convolution;
  Layouts layouts = Layout::kNCHW;
  Precision precision = Precision::kTF32;
  Activation activation;
  bool concat = false;  // the input is Concat([X, X2]) on the channel axis
  float residual_alpha = 1;
};

// Where attributes are read from. Each reader returns nothing where the attribute is absent (or an empty list) and
// throws Error where it has another type.
class AttributeSource {
 public:
  virtual ~AttributeSource() = default;
  virtual std::optional<int64_t> integer(const char* name) const = 0;
  virtual std::optional<std::vector<int64_t>> integers(const char* name) const = 0;
  virtual std::optional<float> number(const char* name) const = 0;
  virtual std::optional<std::vector<float>> floats(const char* name) const = 0;
  virtual std::optional<std::string> text(const char* name) const = 0;
};

// Of a node whose kernel is being made.
class KernelAttributes final : public AttributeSource {
 public:
  KernelAttributes(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}
  std::optional<int64_t> integer(const char* name) const override;
  std::optional<std::vector<int64_t>> integers(const char* name) const override;
  std::optional<float> number(const char* name) const override;
  std::optional<std::vector<float>> floats(const char* name) const override;
  std::optional<std::string> text(const char* name) const override;

 private:
  bool succeeded(OrtStatus*) const;
  void require_absent(const char* name, const char* wanted) const;

  const OrtApi& api_;
  const OrtKernelInfo* info_;
};

// Of a node whose output shape is being inferred. Types are not checked here: ONNX Runtime ignores the errors of shape
// inference, and KernelAttributes will report them.
class InferenceAttributes final : public AttributeSource {
 public:
  InferenceAttributes(const OrtApi& api, const OrtShapeInferContext* context) : api_(api), context_(context) {}
  std::optional<int64_t> integer(const char* name) const override;
  std::optional<std::vector<int64_t>> integers(const char* name) const override;
  std::optional<float> number(const char* name) const override;
  std::optional<std::vector<float>> floats(const char* name) const override;
  std::optional<std::string> text(const char* name) const override;

 private:
  template <class T>
  std::optional<std::vector<T>> read(const char* name, OrtOpAttrType type) const;

  const OrtApi& api_;
  const OrtShapeInferContext* context_;
};

// Throws Error, in words, for a value that docs/ops.md does not know.
NodeAttributes read_attributes(const AttributeSource&, OpKind);

// Throws Error where PRelu has not a slope for each of the K output channels, which only the weights tell.
void check_slopes(const Activation&, int64_t K);

}  // namespace cks::ort

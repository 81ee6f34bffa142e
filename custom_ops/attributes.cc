#include "custom_ops/attributes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace cks::ort {
namespace {

struct ActivationName {
  std::string_view name;
  ActivationKind kind;
  size_t parameters;
};
constexpr size_t kOneAChannel = SIZE_MAX;  // as many as the weights say: check_slopes
constexpr std::array<ActivationName, 13> kActivations{{
    {"", ActivationKind::kNone, 0},
    {"Relu", ActivationKind::kRelu, 0},
    {"LeakyRelu", ActivationKind::kLeakyRelu, 1},
    {"Clip", ActivationKind::kClip, 2},
    {"Sigmoid", ActivationKind::kSigmoid, 0},
    {"Tanh", ActivationKind::kTanh, 0},
    {"HardSigmoid", ActivationKind::kHardSigmoid, 2},
    {"HardSwish", ActivationKind::kHardSwish, 0},
    {"Silu", ActivationKind::kSilu, 0},
    {"Gelu", ActivationKind::kGelu, 0},
    {"GeluTanh", ActivationKind::kGeluTanh, 0},
    {"Elu", ActivationKind::kElu, 1},
    {"PRelu", ActivationKind::kPRelu, kOneAChannel},
}};

Activation make_activation(const std::string& name, const std::vector<float>& parameters) {
  const auto* known = std::ranges::find(kActivations, name, &ActivationName::name);
  if (known == kActivations.end()) {
    std::string names;
    for (const ActivationName& a : kActivations) {
      if (!a.name.empty()) names.append(" ").append(a.name);
    }
    throw Error("attribute activation is \"" + name + "\"; known are" + names);
  }
  if (known->parameters == kOneAChannel) return {.kind = known->kind, .slopes = parameters};
  if (parameters.size() != known->parameters) {
    throw Error("attribute activation_params has " + std::to_string(parameters.size()) + " values; activation \"" +
                name + "\" takes " + std::to_string(known->parameters));
  }
  return {known->kind, known->parameters > 0 ? parameters[0] : 0, known->parameters > 1 ? parameters[1] : 0, {}};
}

// The index of the attribute's value among two, the first of which is the default.
size_t one_of(const AttributeSource& source, const char* name, const std::array<std::string, 2>& values) {
  const std::string value = source.text(name).value_or(values[0]);
  const auto* found = std::ranges::find(values, value);
  if (found == values.end()) {
    throw Error(std::string("attribute ") + name + " is \"" + value + "\"; it must be \"" + values[0] + "\" or \"" +
                values[1] + "\"");
  }
  return found - values.begin();
}

}  // namespace

void check_slopes(const Activation& activation, int64_t K) {
  if (activation.kind != ActivationKind::kPRelu || int64_t(activation.slopes.size()) == K) return;
  throw Error("attribute activation_params has " + std::to_string(activation.slopes.size()) +
              " values; activation \"PRelu\" takes one for each output channel, " + std::to_string(K));
}

NodeAttributes read_attributes(const AttributeSource& source, OpKind kind) {
  const auto integers = [&](const char* name) { return source.integers(name).value_or(std::vector<int64_t>{}); };
  NodeAttributes node;
  Attributes& a = node.convolution;
  a.auto_pad = source.text("auto_pad").value_or(a.auto_pad);
  a.kernel_shape = integers("kernel_shape");
  a.strides = integers("strides");
  a.dilations = integers("dilations");
  a.pads = integers("pads");
  if (kind == OpKind::kMaxPoolNhwc) {
    a.ceil_mode = source.integer("ceil_mode").value_or(0) != 0;
    node.layouts = Layout::kNHWC;
    return node;
  }
  a.group = source.integer("group").value_or(a.group);
  if (kind == OpKind::kKSDeconv) {
    a.op = Operator::kConvTranspose;
    a.output_padding = integers("output_padding");
    a.output_shape = integers("output_shape");
  }
  const auto layout = [&](const char* name) {
    return one_of(source, name, {"NCHW", "NHWC"}) == 0 ? Layout::kNCHW : Layout::kNHWC;
  };
  node.layouts = layout("layout");
  node.precision = one_of(source, "precision", {"tf32", "fp32"}) == 0 ? Precision::kTF32 : Precision::kFP32;
  if (kind == OpKind::kSkDilatedWeightGrad) {
    if (a.kernel_shape.empty()) throw Error("attribute kernel_shape is required");
  } else {
    if (!source.text("y_layout").value_or("").empty()) node.layouts.y = layout("y_layout");
    const int64_t concat = source.integer("concat").value_or(0);
    if (concat != 0 && concat != 1)
      throw Error("attribute concat is " + std::to_string(concat) + "; it must be 0 or 1");
    node.concat = concat == 1;
    if (node.concat && node.layouts.x == Layout::kNCHW) {
      throw Error("attribute concat is 1 and layout \"NCHW\"; X and X2 are read as one tensor in \"NHWC\" only");
    }
    node.activation = make_activation(source.text("activation").value_or(""),
                                      source.floats("activation_params").value_or(std::vector<float>{}));
    node.residual_alpha = source.number("residual_alpha").value_or(node.residual_alpha);
    if (!(node.residual_alpha > 0) || std::isinf(node.residual_alpha)) {
      throw Error("attribute residual_alpha is " + std::to_string(node.residual_alpha) +
                  "; it must be positive, as no other slope can be undone");
    }
  }
  return node;
}

bool KernelAttributes::succeeded(OrtStatus* status) const {
  if (status) api_.ReleaseStatus(status);
  return !status;
}

// ONNX Runtime tells an attribute that is absent from one of another type only in its message, and takes one that is
// not a list for an empty list. So where nothing was found, the other types are tried.
void KernelAttributes::require_absent(const char* name, const char* wanted) const {
  int64_t i;
  float f;
  size_t text_size = 0, integers = 0, floats = 0;
  if (succeeded(api_.KernelInfoGetAttribute_int64(info_, name, &i)) ||
      succeeded(api_.KernelInfoGetAttribute_float(info_, name, &f)) ||
      succeeded(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &text_size)) ||
      (succeeded(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &integers)) && integers) ||
      (succeeded(api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &floats)) && floats)) {
    throw Error(std::string("attribute ") + name + " must be " + wanted);
  }
}

std::optional<int64_t> KernelAttributes::integer(const char* name) const {
  int64_t value;
  if (succeeded(api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
  require_absent(name, "an integer");
  return std::nullopt;
}

std::optional<std::vector<int64_t>> KernelAttributes::integers(const char* name) const {
  size_t size = 0;
  if (!succeeded(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size)) || size == 0) {
    require_absent(name, "a list of integers");
    return std::nullopt;
  }
  std::vector<int64_t> values(size);
  check(api_, api_.KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
  return values;
}

std::optional<float> KernelAttributes::number(const char* name) const {
  float value;
  if (succeeded(api_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
  require_absent(name, "a float");
  return std::nullopt;
}

std::optional<std::vector<float>> KernelAttributes::floats(const char* name) const {
  size_t size = 0;
  if (!succeeded(api_.KernelInfoGetAttributeArray_float(info_, name, nullptr, &size)) || size == 0) {
    require_absent(name, "a list of floats");
    return std::nullopt;
  }
  std::vector<float> values(size);
  check(api_, api_.KernelInfoGetAttributeArray_float(info_, name, values.data(), &size));
  return values;
}

std::optional<std::string> KernelAttributes::text(const char* name) const {
  size_t size = 0;
  if (!succeeded(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) {
    require_absent(name, "a string");
    return std::nullopt;
  }
  std::string value(size, '\0');
  check(api_, api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
  value.resize(size ? size - 1 : 0);  // size counts the closing NUL
  return value;
}

template <class T>
std::optional<std::vector<T>> InferenceAttributes::read(const char* name, OrtOpAttrType type) const {
  const OrtOpAttr* attribute = nullptr;
  if (OrtStatus* status = api_.ShapeInferContext_GetAttribute(context_, name, &attribute)) {
    api_.ReleaseStatus(status);
    return std::nullopt;
  }
  // The first call fails for want of room and says how many bytes there are.
  size_t bytes = 0;
  if (OrtStatus* status = api_.ReadOpAttr(attribute, type, nullptr, 0, &bytes)) api_.ReleaseStatus(status);
  std::vector<T> values((bytes + sizeof(T) - 1) / sizeof(T));
  if (bytes) check(api_, api_.ReadOpAttr(attribute, type, values.data(), bytes, &bytes));
  return values;
}

std::optional<int64_t> InferenceAttributes::integer(const char* name) const {
  const auto value = read<int64_t>(name, ORT_OP_ATTR_INT);
  return value && !value->empty() ? std::optional(value->front()) : std::nullopt;
}
std::optional<std::vector<int64_t>> InferenceAttributes::integers(const char* name) const {
  return read<int64_t>(name, ORT_OP_ATTR_INTS);
}
std::optional<float> InferenceAttributes::number(const char* name) const {
  const auto value = read<float>(name, ORT_OP_ATTR_FLOAT);
  return value && !value->empty() ? std::optional(value->front()) : std::nullopt;
}
std::optional<std::vector<float>> InferenceAttributes::floats(const char* name) const {
  return read<float>(name, ORT_OP_ATTR_FLOATS);
}
std::optional<std::string> InferenceAttributes::text(const char* name) const {
  const auto value = read<char>(name, ORT_OP_ATTR_STRING);
  if (!value) return std::nullopt;
  return std::string(value->begin(), std::ranges::find(*value, '\0'));
}

}  // namespace cks::ort

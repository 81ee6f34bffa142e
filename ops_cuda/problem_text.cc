#include "ops_cuda/problem_text.h"

namespace cks::cuda {
namespace {

std::string extents(const Dims& d) {
  return std::to_string(d[0]) + "x" + std::to_string(d[1]) + "x" + std::to_string(d[2]);
}

const char* type_text(const ConvolutionSpec& spec) {
  switch (spec.type) {
    case DataType::kHalf:
      return "float16";
    case DataType::kBFloat16:
      return "bfloat16";
    case DataType::kFloat:
      return spec.precision == Precision::kTF32 ? "float as TF32" : "float";
  }
  return "";
}

const char* name_of(Layout layout) { return layout == Layout::kNHWC ? "NHWC" : "NCHW"; }

}  // namespace

std::string problem_text(const ConvolutionSpec& spec, bool has_residual) {
  const Problem& p = spec.problem;
  const Filter& f = p.filter;
  std::string text = f.op == Operator::kConv ? "Conv " : "ConvTranspose ";
  text += type_text(spec);
  text += std::string(" ") + name_of(spec.layouts.x);
  if (spec.layouts.y != spec.layouts.x) text += std::string(" to ") + name_of(spec.layouts.y);
  text += ", N " + std::to_string(p.N) + " C " + std::to_string(f.C - p.x2_channels);
  if (p.x2_channels > 0) text += " + " + std::to_string(p.x2_channels);
  text += " K " + std::to_string(f.K) + " groups " + std::to_string(f.groups);
  text += ", input " + extents(p.input) + " output " + extents(p.output) + " filter " + extents(f.extent);
  text += " stride " + extents(p.stride) + " dilation " + extents(p.dilation) + " pad " + extents(p.pad);
  text += ", activation " + std::to_string(int(spec.activation.kind));
  if (has_residual) text += ", residual";
  if (!spec.filter_is_constant) text += ", variable filter";
  return text;
}

}  // namespace cks::cuda

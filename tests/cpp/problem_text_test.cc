// The line under which a measurement is kept (ops_cuda/problem_text.h): another one for everything that may change
// which tile is the fastest, the same one for what does not.
#include "ops_cuda/problem_text.h"

#include <cstdio>
#include <functional>
#include <map>

using namespace cks;
using cks::cuda::ConvolutionSpec;
using cks::cuda::problem_text;

namespace {

int failed = 0;

void expect(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failed;
}

// All extents differ, so that two of them cannot be taken for each other.
ConvolutionSpec some_convolution() {
  ConvolutionSpec spec{{}, DataType::kFloat, Layout::kNHWC, Precision::kTF32, {}, true};
  spec.problem.filter = {Operator::kConv, 64, 96, 1, {2, 3, 5}};
  spec.problem.N = 7;
  spec.problem.input = {11, 12, 13}, spec.problem.output = {14, 15, 16};
  spec.problem.stride = {1, 2, 3}, spec.problem.dilation = {4, 5, 6}, spec.problem.pad = {7, 8, 9};
  return spec;
}

using Change = std::function<void(ConvolutionSpec&)>;

void test_every_difference_shows() {
  std::map<std::string, Change> changes{
      {"operator", [](auto& s) { s.problem.filter.op = Operator::kConvTranspose; }},
      {"C", [](auto& s) { s.problem.filter.C = 128; }},
      {"K", [](auto& s) { s.problem.filter.K = 128; }},
      {"groups", [](auto& s) { s.problem.filter.groups = 2; }},
      {"N", [](auto& s) { s.problem.N = 8; }},
      {"X2", [](auto& s) { s.problem.x2_channels = 32; }},
      {"all but one channel in X2", [](auto& s) { s.problem.x2_channels = 63; }},
      {"float16", [](auto& s) { s.type = DataType::kHalf; }},
      {"bfloat16", [](auto& s) { s.type = DataType::kBFloat16; }},
      {"layouts", [](auto& s) { s.layouts = Layout::kNCHW; }},
      {"layout of X", [](auto& s) { s.layouts.x = Layout::kNCHW; }},
      {"layout of Y", [](auto& s) { s.layouts.y = Layout::kNCHW; }},
      {"precision", [](auto& s) { s.precision = Precision::kFP32; }},
      {"activation", [](auto& s) { s.activation.kind = ActivationKind::kGelu; }},
      {"variable filter", [](auto& s) { s.filter_is_constant = false; }},
  };
  for (size_t i = 0; i < 3; ++i) {
    const std::string axis = " of axis " + std::to_string(i);
    changes["filter" + axis] = [i](auto& s) { ++s.problem.filter.extent[i]; };
    changes["input" + axis] = [i](auto& s) { ++s.problem.input[i]; };
    changes["output" + axis] = [i](auto& s) { ++s.problem.output[i]; };
    changes["stride" + axis] = [i](auto& s) { ++s.problem.stride[i]; };
    changes["dilation" + axis] = [i](auto& s) { ++s.problem.dilation[i]; };
    changes["pad" + axis] = [i](auto& s) { --s.problem.pad[i]; };
  }
  std::map<std::string, std::string> seen{{problem_text(some_convolution(), false), "nothing"},
                                          {problem_text(some_convolution(), true), "residual"}};
  expect(seen.size() == 2, "a residual shows");
  for (const auto& [name, change] : changes) {
    ConvolutionSpec spec = some_convolution();
    change(spec);
    const std::string text = problem_text(spec, false);
    const auto [same, fresh] = seen.emplace(text, name);
    expect(fresh, name + " and " + same->second + " give the same text");
    expect(text.find_first_of("\t\n") == std::string::npos, name + " breaks the line");
  }
}

void test_what_costs_no_time_does_not_show() {
  ConvolutionSpec spec = some_convolution();
  spec.activation = {ActivationKind::kClip, 0, 6};
  const std::string text = problem_text(spec, true);
  spec.activation.beta = 1, spec.residual_alpha = 0.5f, spec.tile = "solo 64x64";
  expect(problem_text(spec, true) == text, "parameters of the epilogue, and the tile itself");
}

}  // namespace

int main() {
  test_every_difference_shows();
  test_what_costs_no_time_does_not_show();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}

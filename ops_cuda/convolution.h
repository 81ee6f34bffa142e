// The CUDA kernels behind one interface: which kernel runs is decided here, from the problem and the device.
// No CUDA header is needed to include this one; streams and device pointers are opaque.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "plan/plan.h"

struct CUstream_st;

namespace cks::cuda {

using Stream = CUstream_st*;

// Bytes of a packed filter, and the packing itself (device to device, asynchronous on `stream`). The packed form
// depends on nothing but the use and the current device, so constant weights are packed once, when a session starts. It
// takes the bytes of the weights with input channels rounded up to 16 bytes; for narrow groups, which are multiplied
// several at a time, as many times that as there are groups together (gemm_groups in pack.h); for floats on Hopper,
// half or all of the weights' bytes, with input channels rounded up to 32.
size_t packed_filter_bytes(const FilterUse&);
void pack_filter(const FilterUse&, const void* w_onnx, void* packed, Stream);

inline constexpr int kWorkspaceAlignment = 256;

// What a Convolution is made from.
struct ConvolutionSpec {
  Problem problem;
  DataType type;
  Layouts layouts;
  Precision precision;
  Activation activation;
  // Whether the packed filter is older than whatever the run's stream does: a kernel may then read it before the work
  // ahead of it has ended.
  bool filter_is_constant = false;
  // Of the LeakyRelu that the residual went through, which is undone before it is added; 1 where through none.
  float residual_alpha = 1;
  // A tile_choice, to have it instead of the one that is expected to be fastest. What names none asks for nothing.
  std::string tile = {};

  FilterUse use() const { return {problem.filter, problem.stride, type, layouts, precision}; }
};

// A planned convolution for one set of shapes on the current device. The constructor plans, copies the plan to the
// device and synchronises, so it must not run inside a graph capture; run() launches kernels only. Immutable after
// construction: run() may be called from many threads at once, each with its own workspace. Throws cks::Error for CUDA
// errors.
class Convolution {
 public:
  explicit Convolution(const ConvolutionSpec&);
  ~Convolution();
  size_t workspace_bytes() const;  // device scratch for one run, aligned to kWorkspaceAlignment, contents irrelevant
  // bias: K elements, residual: Y's shape and layout; either may be null. Device pointers of the DataType.
  void run(InputTensors, const void* packed_filter, const void* bias, const void* residual, void* y, void* workspace,
           Stream) const;
  const char* kernel_name() const;  // for logs and tests: which kernel serves this problem

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Ways to tile the output that are worth a measurement, by name: at most `most` of them, the one that is expected to be
// fastest first. They read the same packed filter. Only some kernels have a choice.
bool has_tile_choices(const ConvolutionSpec&);
bool is_tile_choice(const ConvolutionSpec&, const std::string& tile);
std::vector<std::string> tile_choices(const ConvolutionSpec&, size_t most);

// dW[K][C / groups][T][R][S] of a Conv problem from X and dY (both in `layout`). Sums are deterministic.
class WeightGradient {
 public:
  WeightGradient(const Problem&, DataType, Layout, Precision);
  ~WeightGradient();
  size_t workspace_bytes() const;
  void run(const void* x, const void* dy, void* dw, void* workspace, Stream) const;
  const char* kernel_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cks::cuda

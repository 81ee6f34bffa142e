// The CPU kernels: they walk the same plan as the GPU's, in float whatever the data type.
#pragma once
#include <functional>
#include <memory>

#include "plan/plan.h"

namespace cks::cpu {

// Calls body(i) for every i in [0, count), in any order and on any thread, and returns when all are done.
using ParallelFor = std::function<void(int64_t count, const std::function<void(int64_t)>& body)>;

// Weights in the order the kernels read them. Made once for constant weights, on every call for others.
class PackedFilter {
 public:
  PackedFilter(const Filter&, DataType, const void* w_onnx, const ParallelFor&);
  ~PackedFilter();
  PackedFilter(PackedFilter&&) noexcept;
  const Filter& filter() const;
  const float* data() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A planned convolution for one set of shapes. Immutable after construction: run() may be called from many threads at
// once.
class Convolution {
 public:
  // residual_alpha: of the LeakyRelu that the residual went through; 1 where through none.
  Convolution(const Problem&, DataType, Layouts, const Activation&, float residual_alpha);
  ~Convolution();
  size_t workspace_bytes() const;  // scratch for one run, 64-byte aligned, contents irrelevant
  // bias: K elements, residual: Y's shape and layout; either may be null. All tensors are of the DataType.
  void run(InputTensors, const PackedFilter&, const void* bias, const void* residual, void* y, void* workspace,
           const ParallelFor&) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// dW[K][C / groups][T][R][S] of a Conv problem from X and dY (both in `layout`), dW in the DataType.
class WeightGradient {
 public:
  WeightGradient(const Problem&, DataType, Layout);
  ~WeightGradient();
  size_t workspace_bytes() const;
  void run(const void* x, const void* dy, void* dw, void* workspace, const ParallelFor&) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cks::cpu

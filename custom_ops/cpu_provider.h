// The CPU side of the glue. CpuProvider and CudaProvider have the same members, so that each kernel is written once.
#pragma once
#include <memory>

#include "custom_ops/allocator.h"
#include "ops_cpu/convolution.h"
#include "ops_cpu/max_pool.h"
#include "ops_cpu/relu_each.h"

namespace cks::ort {

// What a node's kernel holds of its provider.
class CpuProvider {
 public:
  using Convolution = cpu::Convolution;
  using WeightGradient = cpu::WeightGradient;
  using MaxPool = cpu::MaxPool;

  CpuProvider(const OrtApi& api, const OrtKernelInfo* info) : api_(api), allocator_(api, info) {}

  // One call of the kernel: what it computes with.
  class Run {
   public:
    Run(const CpuProvider& provider, const OrtKernelContext* context);
    Precision precision(Precision asked) const { return asked; }
    bool is_capturing() const { return false; }
    Block scratch(size_t bytes) const;  // the arena's blocks are 64-byte aligned
    const cpu::ParallelFor& parallel_for() const { return parallel_for_; }

   private:
    const CpuProvider& provider_;
    cpu::ParallelFor parallel_for_;
  };

  // Weights that are the same in every run, packed when the session starts.
  class ConstantFilter {
   public:
    ConstantFilter(const CpuProvider&, const FilterUse&, const OrtValue* weights);
    const cpu::PackedFilter& get(const Run&, Precision, const OrtValue*) const { return packed_; }

   private:
    cpu::PackedFilter packed_;
  };

  // Weights of one run; the CPU's packed form brings its own memory.
  static size_t packed_bytes(const FilterUse&) { return 0; }
  static cpu::PackedFilter pack(const Run& run, const FilterUse& use, const void* weights, void* /*packed*/) {
    return cpu::PackedFilter(use.filter, use.type, weights, run.parallel_for());
  }

  static constexpr bool kSearchesTiles = false;
  // What a convolution is planned from: the first members of cuda::ConvolutionSpec.
  struct Spec {
    Problem problem;
    DataType type;
    Layouts layouts;
    Precision precision;
    Activation activation;
    bool filter_is_constant;
    float residual_alpha;
  };
  static std::unique_ptr<const Convolution> plan(const Spec& s) {
    return std::make_unique<const Convolution>(s.problem, s.type, s.layouts, s.activation, s.residual_alpha);
  }
  static std::unique_ptr<const WeightGradient> plan_gradient(const Problem& problem, DataType type, Layout layout,
                                                             Precision) {
    return std::make_unique<const WeightGradient>(problem, type, layout);
  }

  static void convolve(const Run& run, const Convolution& convolution, InputTensors input,
                       const cpu::PackedFilter& filter, const void* bias, const void* residual, void* y,
                       void* workspace) {
    convolution.run(input, filter, bias, residual, y, workspace, run.parallel_for());
  }
  static void differentiate(const Run& run, const WeightGradient& gradient, const void* x, const void* dy, void* dw,
                            void* workspace) {
    gradient.run(x, dy, dw, workspace, run.parallel_for());
  }
  static void pool(const Run& run, const MaxPool& pool, const void* x, void* y) { pool.run(x, y, run.parallel_for()); }
  static void relu_each(const Run& run, std::span<const ReluTensor> tensors, DataType type) {
    cpu::relu_each(tensors, type, run.parallel_for());
  }

 private:
  const OrtApi& api_;
  Allocator allocator_;
};

}  // namespace cks::ort

// MaxPool of channels-last tensors on the CPU.
#pragma once
#include "ops_cpu/convolution.h"

namespace cks::cpu {

// The pool that a Problem with the filter of make_window describes: y is the largest x under the window. Padding never
// wins, a NaN does; a window with nothing but padding gives the lowest finite value, as in ONNX Runtime.
class MaxPool {
 public:
  MaxPool(const Problem& problem, DataType type) : problem_(problem), type_(type) {}
  void run(const void* x, void* y, const ParallelFor&) const;

 private:
  void pool_row(const char* x, char* y, int64_t row) const;

  Problem problem_;
  DataType type_;
};

}  // namespace cks::cpu

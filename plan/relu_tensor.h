// A tensor of ReluEach: what the CPU kernel, the CUDA kernel and the ONNX Runtime glue share.
#pragma once
#include <cstdint>

namespace cks {

// y[i] = max(x[i], 0) for `count` elements, of which there may be none. A NaN stays one.
struct ReluTensor {
  const void* x;
  void* y;
  int64_t count;
};

}  // namespace cks

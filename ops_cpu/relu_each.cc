#include "ops_cpu/relu_each.h"

#include <algorithm>
#include <vector>

namespace cks::cpu {
namespace {

constexpr int64_t kTaskElements = 1 << 15;  // far more work than it takes to hand out a task

// Negative zero comes first of the values with a sign, in the order of their bits, and minus infinity last but for the
// NaNs. So it needs no conversion, and is the same for all types.
template <class Bits>
void relu(const void* x, void* y, int64_t begin, int64_t end, Bits minus_zero, Bits infinity) {
  const auto* from = static_cast<const Bits*>(x);
  auto* to = static_cast<Bits*>(y);
  for (int64_t i = begin; i < end; ++i) to[i] = Bits(from[i] - minus_zero) <= infinity ? Bits(0) : from[i];
}

void relu(const ReluTensor& tensor, DataType type, int64_t begin, int64_t end) {
  switch (type) {
    case DataType::kFloat:
      return relu<uint32_t>(tensor.x, tensor.y, begin, end, 0x80000000u, 0x7f800000u);
    case DataType::kHalf:
      return relu<uint16_t>(tensor.x, tensor.y, begin, end, 0x8000u, 0x7c00u);
    case DataType::kBFloat16:
      return relu<uint16_t>(tensor.x, tensor.y, begin, end, 0x8000u, 0x7f80u);
  }
}

}  // namespace

void relu_each(std::span<const ReluTensor> tensors, DataType type, const ParallelFor& parallel_for) {
  struct Task {
    const ReluTensor* tensor;
    int64_t begin;
  };
  std::vector<Task> tasks;
  for (const ReluTensor& tensor : tensors)
    for (int64_t begin = 0; begin < tensor.count; begin += kTaskElements) tasks.push_back({&tensor, begin});
  parallel_for(int64_t(tasks.size()), [&](int64_t i) {
    const auto& [tensor, begin] = tasks[size_t(i)];
    relu(*tensor, type, begin, std::min(begin + kTaskElements, tensor->count));
  });
}

}  // namespace cks::cpu

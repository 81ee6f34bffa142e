// Copies of a patch of the input by rows, with loads that wait together.
#pragma once
#include <cstdint>

namespace cks::cuda {

// A unit to copy, an element or several: from x (-1: zeros stand for it), to the patch; both counted in elements.
template <class Unit>
struct Copy {
  using type = Unit;
  int64_t from;
  int to;
};

// copy_of(row, i) is unit i, of `length`, of a row of the patch; put(to, unit) stores one. row_threads, a power of two,
// threads copy a row.
template <int kThreads, class T, class CopyOf, class Put>
__device__ void copy_rows(const T* x, int length, int rows, int row_threads, CopyOf copy_of, Put put) {
  constexpr int kBatch = 8;
  using Unit = typename decltype(copy_of(0, 0))::type;
  const int rows_at_once = kThreads / row_threads, first = threadIdx.x % row_threads;
  int row = threadIdx.x / row_threads, i = first;
  while (row < rows) {
    Unit unit[kBatch];
    int to[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      to[j] = -1;
      unit[j] = Unit{};
      if (row < rows && i < length) {
        const Copy<Unit> copy = copy_of(row, i);
        to[j] = copy.to;
        if (copy.from >= 0) unit[j] = __ldg(reinterpret_cast<const Unit*>(x + copy.from));
      }
      i += row_threads;
      if (i - first >= length) i = first, row += rows_at_once;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (to[j] >= 0) put(to[j], unit[j]);
  }
}

}  // namespace cks::cuda

// Copies of a patch of the input by rows, with loads that wait together and little arithmetic for each.
#pragma once
#include <cstdint>

#include "ops_cuda/patch_rows.h"

namespace cks::cuda {

// A unit of a row: where it lies from the row's first one, in x and in the patch, in elements.
struct UnitPlace {
  int from, to;
  bool valid;  // else it is outside the image: zeros
};
// A row: where its first unit would lie in x (-1: all zeros) and lies in the patch.
struct RowPlace {
  int64_t from;
  int to;
};

// Units [0, length) of rows [0, rows); unit_at(i), row_at(row) tell where, put(to, unit) stores. row_threads, a power
// of two, threads copy a row.
template <int kThreads, class Unit, class T, class UnitAt, class RowAt, class Put>
__device__ void copy_rows(const T* x, int length, int rows, int row_threads_log2, UnitAt unit_at, RowAt row_at,
                          Put put) {
  constexpr int kRows = 4, kUnits = sizeof(Unit) == kWideUnit ? 1 : kNarrowUnits;  // of a thread at once
  const int row_threads = 1 << row_threads_log2, rows_at_once = kThreads >> row_threads_log2;
  for (int first = threadIdx.x & (row_threads - 1); first < length; first += kUnits * row_threads) {
    UnitPlace place[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int unit = first + i * row_threads;
      place[i] = unit_at(unit);
      if (unit >= length) place[i].valid = false, place[i].to = -1;
    }
    for (int row = threadIdx.x >> row_threads_log2; row < rows; row += kRows * rows_at_once) {
      Unit unit[kRows][kUnits];
      int to[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        RowPlace at{-1, -1};
        if (row + r * rows_at_once < rows) at = row_at(row + r * rows_at_once);
        to[r] = at.to;
        const T* const source = x + at.from;
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          unit[r][i] = Unit{};
          if (at.from >= 0 && place[i].valid) unit[r][i] = __ldg(reinterpret_cast<const Unit*>(source + place[i].from));
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int i = 0; i < kUnits; ++i)
          if (to[r] >= 0 && place[i].to >= 0) put(to[r] + place[i].to, unit[r][i]);
    }
  }
}

}  // namespace cks::cuda

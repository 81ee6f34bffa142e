// Copies a patch of the input by rows of equal units, an element or a chunk each, with loads that wait together.
#pragma once
#include <cstdint>

#include "ops_cuda/divider.h"

namespace cks::cuda {

// A row: where its first unit lies in x and in the patch, in elements.
struct RowPlace {
  int64_t from;
  int to;
  bool valid;  // else the row is outside the image: zeros
};
// A unit: how far from there.
struct UnitPlace {
  int from, to;
  bool valid;
};

// The units of `rows` rows; row_at(row), unit_at(i) tell where, put(to, unit) stores.
template <int kThreads, class Unit, class T, class RowAt, class UnitAt, class Put>
__device__ void copy_rows(const T* x, const Divider& row_units, int rows, RowAt row_at, UnitAt unit_at, Put put) {
  constexpr int kBatch = sizeof(Unit) == 16 ? 4 : 8;  // loads of a thread that wait together
  const int count = rows * row_units.divisor;
  for (int first = threadIdx.x; first < count; first += kBatch * kThreads) {
    Unit unit[kBatch];
    int to[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = first + j * kThreads, row = row_units.quotient(i);
      const RowPlace begin = row_at(row);
      const UnitPlace place = unit_at(i - row * row_units.divisor);
      to[j] = begin.to + place.to;
      unit[j] = Unit{};
      if (i < count && begin.valid && place.valid)
        unit[j] = __ldg(reinterpret_cast<const Unit*>(x + begin.from + place.from));
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j)
      if (first + j * kThreads < count) put(to[j], unit[j]);
  }
}

}  // namespace cks::cuda

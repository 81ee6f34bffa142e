// How many threads copy a row of a patch (patch_copy.cuh).
#pragma once

namespace cks::cuda {

inline constexpr int kWideUnit = 16;    // bytes: a thread copies one of a row at once,
inline constexpr int kNarrowUnits = 4;  // of smaller units so many

// As a power of two.
inline int row_threads_log2(int length, bool wide, int threads) {
  const int units = wide ? 1 : kNarrowUnits;
  int log2 = 3;
  while (2 << log2 <= threads && units << log2 < length) ++log2;
  return log2;
}

}  // namespace cks::cuda

// How many threads copy a row of a patch (patch_copy.cuh).
#pragma once

namespace cks::cuda {

// As a power of two, where a thread takes four units of a row at once.
inline int row_threads_log2(int length, int threads) {
  int log2 = 3;
  while (2 << log2 <= threads && 4 << log2 < length) ++log2;
  return log2;
}

}  // namespace cks::cuda

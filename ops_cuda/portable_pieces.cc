#include "ops_cuda/portable_pieces.h"

#include <algorithm>

#include "plan/problem.h"

namespace cks::cuda {

Pieces cut_sums(std::span<const int32_t> lengths, int32_t longest) {
  Pieces r;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int32_t tile = int32_t(i), length = lengths[i];
    const int32_t parts = int32_t(std::max<int64_t>(ceil_div(length, longest), 1));
    if (parts == 1) {
      r.pieces.push_back({tile, 0, length, Piece::kWhole});
      continue;
    }
    r.cut_tiles.push_back({tile, r.parts, parts});
    const auto begin = [&](int32_t part) { return int32_t(int64_t(length) * part / parts); };
    for (int32_t part = 0; part < parts; ++part)
      r.pieces.push_back({tile, begin(part), begin(part + 1) - begin(part), r.parts++});
  }
  // Longest first, as the plan has its tiles: what is short fills the gaps at the end.
  std::ranges::stable_sort(r.pieces, std::greater<>{}, &Piece::count);
  return r;
}

}  // namespace cks::cuda

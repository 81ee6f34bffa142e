// How the kernels for few input channels (of a group) cut a convolution: pure functions, tested without a GPU.
//
// A tile of output pixels reads a patch of the input, kept in shared memory as [d][h][w][c]. The kernels read it in
// words of 32 bits, one float or two 16-bit elements, and eight words are a step of the tensor cores. Where a tap's
// channels fill whole chunks of four words, or nearly, a step is two places in the patch for all pixels
// (few_inputs_steps.cuh). Elsewhere (few_inputs_words.cuh) words are listed one by one: one row of the filter meets
// neighbouring elements of a patch row, so taps and channels are summed as one index without gaps, S * C elements a
// run, or C where pixels of the patch lie apart (dilation).
//
// Transposed convolutions of few outputs are ordinary ones of cells of outputs (output_cells.h).
#pragma once
#include <optional>
#include <vector>

#include "ops_cuda/device_plan.h"
#include "ops_cuda/kernel.h"

namespace cks::cuda {

enum class FewInputsLoop { kWords, kSteps, kWgmma };  // few_inputs_words.cuh, ...

// A team: its warps, and 16 pixels of so many tiles for each. A thread block is one, or (wgmma) a few, which share the
// filter and else go their own ways, so that some copy or store while others multiply.
struct FewInputsShape {
  FewInputsLoop loop;
  int warps, row_tiles;

  constexpr int pixels() const { return warps * row_tiles * 16; }  // of a tile
  bool operator==(const FewInputsShape&) const = default;
};
inline constexpr FewInputsShape kFewInputsWords{FewInputsLoop::kWords, 4, 2},
    kFewInputsWgmma{FewInputsLoop::kWgmma, 4, 2}, kFewInputsSmall{FewInputsLoop::kSteps, 4, 2};
// More pixels for each weight read, and less patch around them, as far as registers hold the sums.
constexpr FewInputsShape few_inputs_large(int columns) { return {FewInputsLoop::kSteps, 8, columns == 64 ? 2 : 4}; }
// Thread blocks of a multiprocessor, but of wgmma: 16 warps, with 128 registers a thread.
constexpr int few_inputs_resident(int warps) { return 16 / warps; }

inline constexpr int kFewInputsMostSteps = 256;  // of kSteps and kWgmma
inline constexpr int kFewInputsMostTeams = 4;
inline constexpr int kFewInputsMostColumns = 64;

// A word of the summed index: where it lies in the patch, relative to the tap at offset 0 (in words), which bits of it
// count, and which weights meet its elements: offset of [tap][c] in a filter [taps][k][pitch] at k = 0, or -1.
struct FewInputsWord {
  int32_t patch;
  uint32_t mask;
  int32_t weight[2];
};

// A column of output cells: its weights' offset to those of a word, in elements of the filter, its channel, and which
// output of the cell it is: where that lies, and how far from the cell's first one in y.
struct FewInputsColumn {
  int32_t filter, k;
  Int3 in_cell;
  int32_t in_y;
};

// How the patch is copied from x.
enum class PatchSource {
  kChunks,     // parts of pixels that are whole chunks of 16 bytes
  kHalves,     // parts of pixels that are halves of chunks
  kRuns,       // rows of whole pixels, by chunks, wherever in them pixels begin
  kPlaneRuns,  // rows of planes (channels first), by chunks
  kElements,   // parts of pixels, by elements
  kPlanes,     // rows of planes, by elements
};

// Each thread copies the same part of some pixels, while it may do something else.
constexpr bool by_parts(PatchSource source) { return source == PatchSource::kChunks || source == PatchSource::kHalves; }

struct FewInputsPlan {
  FewInputsShape shape;
  int64_t slices;            // the channels are cut into these, each its own convolution
  int32_t slice_c, slice_k;  // channels of a slice
  int32_t columns;           // output channels of a thread block: 16, 32 or 64
  int32_t teams = 1;         // of a thread block
  Int3 box, patch;           // pixels of a tile (powers of two, shape.pixels() in all), and of its patch
  PatchSource source;
  int32_t lead;              // runs: elements of x that a row's first chunk has before the patch, of a channel
  int32_t pixel_pitch;       // of the patch, in elements
  int32_t chunk_pitch;       // of a pixel's chunks, which are neighbours, or (wgmma) of pairs of them, in planes
  int32_t row_pitch;         // of patch rows, in elements
  int32_t matrix_pitch = 0;  // wgmma: of eight pixels in the patch, 64 of the box being eight times eight
  int32_t origin;            // where the patch begins, in elements
  int32_t patch_words;       // of the whole patch
  int32_t patches;           // 2: one is copied while the other is read
  bool shifted;              // a second patch follows, an element further left: pairs may begin at odd elements
  std::vector<FewInputsWord> words;           // a multiple of eight
  Problem problem;                            // what is computed: the problem itself, or that of its output cells
  Int3 cell{1, 1, 1};                         // outputs of one
  std::vector<FewInputsColumn> cell_columns;  // of output cells, else none
  std::vector<uint64_t> met_by;               // of each four words, the columns that have weights for them (as bits)

  int steps() const { return int(words.size()) / 8; }
  // Shared memory: the filter, the words' places (of kWords), each team's patch or two, what the columns' epilogue is.
  int filter_bytes() const { return int(words.size()) * columns * 4; }
  int table_bytes() const { return shape.loop != FewInputsLoop::kWords ? 0 : int(words.size()) * 8; }
  int patches_bytes() const { return patch_words * 4 * (shifted ? 2 : patches); }  // of a team
  int columns_bytes() const { return columns * int(sizeof(int32_t)) * 4; }
  int shared_bytes() const { return filter_bytes() + table_bytes() + teams * patches_bytes() + columns_bytes(); }
};

// None where the kernels cannot serve the problem on such a device.
std::optional<FewInputsPlan> plan_few_inputs(const Problem&, DataType, Layouts, const Device&);

}  // namespace cks::cuda

// How few_inputs_conv.cuh cuts a convolution with few input channels (of a group): pure functions, tested without a
// GPU.
//
// A tile of output pixels reads a patch of the input, kept in shared memory as [d][h][w][c]. One row of the filter
// meets neighbouring elements of a patch row, so taps and channels are summed as one index without gaps: S * C elements
// a run, or C where pixels of the patch lie apart (dilation). The kernel reads the patch in words of 32 bits, one float
// or two 16-bit elements, and eight words are a step of the tensor cores.
#pragma once
#include <optional>
#include <vector>

#include "ops_cuda/device_plan.h"

namespace cks::cuda {

inline constexpr int kFewInputsThreads = 128, kFewInputsPixels = 128;  // of a tile

// A word of the summed index: where it lies in the patch, relative to the tap at offset 0 (in words), which bits of it
// count, and which weights meet its elements: offset of [tap][c] in a filter [taps][k][pitch] at k = 0, or -1.
struct FewInputsWord {
  int32_t patch;
  uint32_t mask;
  int32_t weight[2];
};

// How the patch is copied from x.
enum class PatchSource {
  kChunks,     // parts of pixels that are whole chunks of 16 bytes
  kRuns,       // rows of whole pixels, by chunks, wherever in them pixels begin
  kPlaneRuns,  // rows of planes (channels first), by chunks
  kElements,   // parts of pixels, by elements
  kPlanes,     // rows of planes, by elements
};

struct FewInputsPlan {
  int64_t slices;            // the channels are cut into these, each its own convolution
  int32_t slice_c, slice_k;  // channels of a slice
  int32_t columns;           // output channels of a thread block: 16, 32 or 64
  Int3 box, patch;           // pixels of a tile (powers of two, kFewInputsPixels in all), and of its patch
  PatchSource source;
  int32_t lead;                      // runs: elements of x that a row's first chunk has before the patch, of a channel
  int32_t pixel_pitch;               // of the patch, in elements
  int32_t row_pitch;                 // of patch rows, in elements
  int32_t origin;                    // where the patch begins, in elements
  int32_t patch_words;               // of the whole patch
  bool shifted;                      // a second patch follows, an element further left: pairs may begin at odd elements
  std::vector<FewInputsWord> words;  // a multiple of eight

  int steps() const { return int(words.size()) / 8; }
  // Shared memory: the filter, the words' places, the patch (or two).
  int filter_bytes() const { return int(words.size()) * columns * 4; }
  int table_bytes() const { return int(words.size()) * 8; }
  int shared_bytes() const { return filter_bytes() + table_bytes() + patch_words * 4 * (shifted ? 2 : 1); }
};

// None where the kernel cannot serve the problem with so much shared memory a thread block.
std::optional<FewInputsPlan> plan_few_inputs(const Problem&, DataType, Layout, int shared_bytes);

}  // namespace cks::cuda

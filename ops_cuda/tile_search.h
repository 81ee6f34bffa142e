// Which tile computes a convolution fastest, measured on the tensors of a run.
#pragma once
#include "ops_cuda/convolution.h"

namespace cks::cuda {

std::string gpu_name();  // of the current device, or of the slice of one that it is

// The candidates, planned. Allocates and synchronises: not for a stream that is being captured.
class TileSearch {
 public:
  explicit TileSearch(const ConvolutionSpec&);  // of one that has choices
  ~TileSearch();

  size_t workspace_bytes() const;  // for any of the candidates
  // Gives up the candidate that needs the largest workspace; false where it is the last one.
  bool drop_largest();

  struct Found {
    std::string tile;
    double us, expected_us;  // of a launch; with the tile that was expected to be the fastest
    size_t candidates;
  };
  // Overwrites y many times, always with the convolution's result, so no operand may lie there.
  Found fastest(InputTensors, const void* packed_filter, const void* bias, const void* residual, void* y,
                void* workspace, Stream) const;

 private:
  struct Candidate;
  const FilterUse use_;
  const bool filter_is_constant_;
  std::vector<Candidate> candidates_;
};

}  // namespace cks::cuda

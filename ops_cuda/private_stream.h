// Work on the device outside a run: plans copied there, constant weights packed.
#pragma once
#include "ops_cuda/error.h"

namespace cks::cuda {

// Another session, in another thread, may be capturing a CUDA graph, which forbids allocations in all threads, lest
// they were meant for the graph. Those of this thread are not.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // outside: the mode to return to
};

// Work on the legacy default stream would end such a capture. When a private stream goes, its work is done.
class PrivateStream {
 public:
  PrivateStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
  ~PrivateStream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  PrivateStream(const PrivateStream&) = delete;
  PrivateStream& operator=(const PrivateStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  RelaxedCapture relaxed_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace cks::cuda

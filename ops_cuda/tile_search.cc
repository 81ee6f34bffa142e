#include "ops_cuda/tile_search.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "ops_cuda/private_stream.h"

namespace cks::cuda {
namespace {

constexpr size_t kCandidates = 10;
// Of candidates timed by one launch those that take this much longer than the best, noise aside, are given up; not the
// one that is expected to be fastest, lest nobody learns what the search was good for.
constexpr double kHopeless = 1.5, kNoiseUs = 5;
// A sample is as many launches as take about this long, of each candidate in turn; its fastest sample counts.
constexpr double kSampleUs = 200;
constexpr int kMostLaunches = 20;
constexpr int kSamples = 7;

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "creating an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream stream) { check(cudaEventRecord(event_, stream), "timing a tile"); }
  double us_until(const Event& end) const {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, event_, end.event_), "timing a tile");
    return 1e3 * double(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// The same launch again and again, as a graph: the host is too slow to keep the GPU busy with short ones.
class Launches {
 public:
  template <class Launch>
  Launches(int count, const Launch& launch) {
    const PrivateStream stream;  // the run's may be the legacy default stream, which cannot be captured
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), "capturing a tile's launches");
    cudaGraph_t graph = nullptr;
    try {
      for (int i = 0; i < count; ++i) launch(stream.get());
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(stream.get(), &graph), "capturing a tile's launches");
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "capturing a tile's launches");
  }
  ~Launches() { cudaGraphExecDestroy(graph_); }
  Launches(const Launches&) = delete;
  Launches& operator=(const Launches&) = delete;
  void start(Stream stream) const { check(cudaGraphLaunch(graph_, stream), "launching a tile's graph"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

void wait_for(Stream stream) { check(cudaStreamSynchronize(stream), "timing tiles"); }

// A filter with copies of it that together exceed the cache: launches that take them in turn find what a layer of a
// model finds, whose weights the layers in between have pushed out, and not all tiles bear that alike. One that is made
// in the run is in the cache.
class Filters {
 public:
  Filters(const void* filter, const FilterUse& use, bool is_constant, Stream stream) : filters_{filter} {
    if (!is_constant) return;
    const size_t bytes = packed_filter_bytes(use);
    int device = 0, cache_bytes = 0;
    check(cudaGetDevice(&device), "looking for a GPU");
    check(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, device), "asking what the GPU is");
    const size_t pitch = size_t(round_up(int64_t(bytes), kWorkspaceAlignment));
    const size_t copies = std::min(2 * size_t(cache_bytes) / pitch, size_t(kMostLaunches));
    void* memory = nullptr;
    if (copies == 0 || cudaMalloc(&memory, copies * pitch) != cudaSuccess) {
      cudaGetLastError();  // a search with a warm filter is better than none
      return;
    }
    memory_.reset(static_cast<char*>(memory));
    for (size_t i = 0; i < copies; ++i) {
      filters_.push_back(memory_.get() + i * pitch);
      check(cudaMemcpyAsync(memory_.get() + i * pitch, filter, bytes, cudaMemcpyDeviceToDevice, stream),
            "copying a filter");
    }
    wait_for(stream);  // kernels may read a constant filter before the work ahead of them has ended
  }
  const void* operator[](size_t i) const { return filters_[i % filters_.size()]; }

 private:
  struct Free {
    void operator()(char* memory) const { cudaFree(memory); }  // waits for those that still read it
  };
  std::vector<const void*> filters_;
  std::unique_ptr<char, Free> memory_;
};

// The microseconds of each action, started in turn. One goes before them untimed, so that the host is ahead of the GPU.
template <class Start>
std::vector<double> times_us(size_t actions, Stream stream, const Start& start) {
  std::vector<std::array<Event, 2>> events(actions);
  start(actions - 1);
  for (size_t i = 0; i < actions; ++i) {
    events[i][0].record(stream);
    start(i);
    events[i][1].record(stream);
  }
  wait_for(stream);
  std::vector<double> us;
  for (const auto& [begin, end] : events) us.push_back(begin.us_until(end));
  return us;
}

}  // namespace

std::string gpu_name() {
  int device = 0;
  check(cudaGetDevice(&device), "looking for a GPU");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "asking what the GPU is");
  return std::string(properties.name) + ", " + std::to_string(properties.multiProcessorCount) + " multiprocessors";
}

struct TileSearch::Candidate {
  std::string tile;
  std::unique_ptr<const Convolution> convolution;
};

TileSearch::TileSearch(const ConvolutionSpec& spec) : use_(spec.use()), filter_is_constant_(spec.filter_is_constant) {
  const RelaxedCapture relaxed;
  for (const std::string& tile : tile_choices(spec, kCandidates)) {
    ConvolutionSpec tiled = spec;
    tiled.tile = tile;
    candidates_.push_back({tile, std::make_unique<const Convolution>(tiled)});
  }
}

TileSearch::~TileSearch() = default;

size_t TileSearch::workspace_bytes() const {
  size_t most = 0;
  for (const Candidate& c : candidates_) most = std::max(most, c.convolution->workspace_bytes());
  return most;
}

bool TileSearch::drop_largest() {
  if (candidates_.size() == 1) return false;
  candidates_.erase(
      std::ranges::max_element(candidates_, {}, [](const Candidate& c) { return c.convolution->workspace_bytes(); }));
  return true;
}

TileSearch::Found TileSearch::fastest(InputTensors input, const void* filter, const void* bias, const void* residual,
                                      void* y, void* workspace, Stream stream) const {
  const RelaxedCapture relaxed;
  const Filters filters(filter, use_, filter_is_constant_, stream);
  size_t launched = 0;
  const auto launch = [&](const Candidate& c, Stream where) {
    c.convolution->run(input, filters[launched++], bias, residual, y, workspace, where);
  };
  for (const Candidate& c : candidates_) launch(c, stream);  // the first launch loads the kernel
  const std::vector<double> roughly_us =
      times_us(candidates_.size(), stream, [&](size_t i) { launch(candidates_[i], stream); });
  const double best_us = std::ranges::min(roughly_us);

  const int count = std::clamp(int(kSampleUs / best_us), 1, kMostLaunches);
  std::vector<const Candidate*> hopeful;
  std::vector<std::unique_ptr<const Launches>> launches;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    if (i > 0 && roughly_us[i] > kHopeless * best_us + kNoiseUs) continue;
    hopeful.push_back(&candidates_[i]);
    launches.push_back(std::make_unique<const Launches>(count, [&](Stream s) { launch(candidates_[i], s); }));
  }
  std::vector<double> least_us(hopeful.size(), std::numeric_limits<double>::infinity());
  for (int sample = 0; sample < kSamples; ++sample) {
    const std::vector<double> us = times_us(hopeful.size(), stream, [&](size_t i) { launches[i]->start(stream); });
    for (size_t i = 0; i < us.size(); ++i) least_us[i] = std::min(least_us[i], us[i] / count);
  }
  const size_t fastest = size_t(std::ranges::min_element(least_us) - least_us.begin());
  return {hopeful[fastest]->tile, least_us[fastest], least_us.front(), candidates_.size()};
}

}  // namespace cks::cuda

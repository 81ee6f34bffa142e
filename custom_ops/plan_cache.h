// What was planned for the shapes that a node has seen lately.
#pragma once
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "custom_ops/ort_api.h"

namespace cks::ort {

// Shared by concurrent runs. A lookup allocates nothing and holds the lock for the time of a few comparisons; planning
// happens outside the lock, so two runs that meet a new shape at once may both plan it, and one plan is kept.
template <class Planned>
class PlanCache {
 public:
  using Key = std::array<Shape, 2>;  // of the two inputs that a plan depends on

  struct Entry {
    Entry(const Key& k, std::unique_ptr<const Planned> p) : key(k), planned(std::move(p)) {}
    const Key key;
    const std::unique_ptr<const Planned> planned;
    // A captured CUDA graph points into the plan for as long as it lives, so such a plan is never dropped.
    std::atomic<bool> in_captured_graph = false;
    uint64_t last_use = 0;  // guarded by the cache's lock
  };

  // The entry for these shapes, made by `plan` where there is none.
  template <class MakePlan>
  std::shared_ptr<Entry> get(const Key& key, MakePlan&& plan) {
    if (std::shared_ptr<Entry> found = find(key)) return found;
    auto made = std::make_shared<Entry>(key, plan());
    std::shared_ptr<Entry> dropped;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    if (entries_.size() >= kCapacity) {
      size_t oldest = entries_.size();
      for (size_t i = 0; i < entries_.size(); ++i) {
        if (entries_[i]->in_captured_graph) continue;
        if (oldest == entries_.size() || entries_[i]->last_use < entries_[oldest]->last_use) oldest = i;
      }
      if (oldest != entries_.size()) {
        dropped = std::exchange(entries_[oldest], entries_.back());
        entries_.pop_back();
      }
    }
    made->last_use = ++clock_;
    entries_.push_back(made);
    return made;
  }

 private:
  static constexpr size_t kCapacity = 16;

  std::shared_ptr<Entry> find(const Key& key) {
    const std::lock_guard lock(mutex_);
    for (const std::shared_ptr<Entry>& entry : entries_) {
      if (entry->key == key) {
        entry->last_use = ++clock_;
        return entry;
      }
    }
    return nullptr;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<Entry>> entries_;
  uint64_t clock_ = 0;
};

}  // namespace cks::ort

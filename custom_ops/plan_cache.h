// What was planned for the shapes that a node has seen lately.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "custom_ops/ort_api.h"

namespace cks::ort {

// Shared by concurrent runs. A lookup allocates nothing and holds the lock for the time of a few comparisons; planning
// happens outside the lock, so two runs that meet a new shape at once may both plan it, and the first plan is kept.
template <class Planned>
class PlanCache {
 public:
  using Key = std::array<Shape, 3>;  // of the inputs that a plan depends on; rank 0 where there are fewer

  // The plan for these shapes, made by `plan` where there is none. A captured CUDA graph points into the plan for as
  // long as it lives, so a plan that was asked for while `capturing` is never dropped.
  template <class MakePlan>
  std::shared_ptr<const Planned> get(const Key& key, bool capturing, MakePlan&& plan) {
    {
      const std::lock_guard lock(mutex_);
      if (Entry* found = find(key, capturing)) return found->planned;
    }
    std::shared_ptr<const Planned> made = plan();
    std::shared_ptr<const Planned> dropped;  // destroyed after the lock is gone
    const std::lock_guard lock(mutex_);
    if (Entry* found = find(key, capturing)) return found->planned;
    if (entries_.size() >= kCapacity) dropped = drop_oldest();
    entries_.push_back({key, made, capturing, ++clock_});
    return made;
  }

 private:
  static constexpr size_t kCapacity = 16;

  struct Entry {
    Key key;
    std::shared_ptr<const Planned> planned;
    bool in_captured_graph;
    uint64_t last_use;
  };

  Entry* find(const Key& key, bool capturing) {
    const auto found = std::ranges::find(entries_, key, &Entry::key);
    if (found == entries_.end()) return nullptr;
    found->last_use = ++clock_;
    found->in_captured_graph |= capturing;
    return &*found;
  }

  std::shared_ptr<const Planned> drop_oldest() {
    const auto oldest = std::ranges::min_element(
        entries_, {}, [](const Entry& e) { return std::pair(e.in_captured_graph, e.last_use); });
    if (oldest->in_captured_graph) return nullptr;
    std::shared_ptr<const Planned> dropped = std::move(oldest->planned);
    entries_.erase(oldest);
    return dropped;
  }

  std::mutex mutex_;
  std::vector<Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace cks::ort

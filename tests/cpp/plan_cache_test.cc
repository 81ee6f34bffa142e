// Which plans a node keeps (custom_ops/plan_cache.h), without ONNX Runtime.
#include "custom_ops/plan_cache.h"

#include <cstdio>

using cks::ort::PlanCache;
using cks::ort::Shape;

namespace {

using Cache = PlanCache<int>;

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("FAILED: %s\n", what);
  ++failed;
}

Cache::Key key(int64_t extent) {
  Shape shape;
  shape.dims[0] = extent, shape.rank = 1;
  return {shape, shape};
}

int planned = 0;
std::shared_ptr<const int> get(Cache& cache, int64_t extent, bool capturing = false) {
  return cache.get(key(extent), capturing, [&] { return std::make_unique<const int>(++planned); });
}

void test_plans_are_kept() {
  Cache cache;
  const auto first = get(cache, 1);
  expect(get(cache, 1) == first, "the second run finds the plan of the first");
  expect(get(cache, 2) != first, "other shapes have a plan of their own");
}

void test_lately_used_plans_stay() {
  Cache cache;
  const auto often = get(cache, 0), captured = get(cache, 1, true), later_captured = get(cache, 2),
             once = get(cache, 3);
  get(cache, 2, true);
  for (int64_t extent = 4; extent < 100; ++extent) get(cache, extent), get(cache, 0);
  expect(get(cache, 0) == often, "a plan in steady use stays");
  expect(get(cache, 1) == captured, "a plan made for a captured graph stays");
  expect(get(cache, 2) == later_captured, "a plan that a graph captured later stays");
  expect(get(cache, 3) != once, "a plan that is no longer used goes");
  expect(once.use_count() == 1, "and its memory with it, when the last run has ended");
}

void test_only_one_of_two_concurrent_plans_is_kept() {
  Cache cache;
  std::shared_ptr<const int> inner;
  const auto outer = cache.get(key(1), false, [&] {
    inner = get(cache, 1);  // as another thread would, while this one plans
    return std::make_unique<const int>(++planned);
  });
  expect(outer == inner, "of two plans for the same shapes the first is used");
  expect(inner.use_count() == 3, "and kept once");
}

}  // namespace

int main() {
  test_plans_are_kept();
  test_lately_used_plans_stay();
  test_only_one_of_two_concurrent_plans_is_kept();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}

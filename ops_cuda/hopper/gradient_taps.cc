#include "ops_cuda/hopper/gradient_taps.h"

#include <algorithm>
#include <limits>
#include <map>

namespace cks::cuda::hopper::gradient {

Covering cover(const Frame& f, const Axes& box, const std::array<bool, 4>& margins, bool exact) {
  std::map<Axes, std::vector<int>> classes;
  for (int t = 0; t < int(f.taps.size()); ++t) {
    Axes key;
    for (int a = 0; a < 4; ++a) {
      const int32_t o = f.taps[t].offset[a], s = f.stride[a];
      key[a] = margins[a] ? (o % s + s) % s : o;
    }
    classes[key].push_back(t);
  }
  const Axes step = step_of(box);
  Covering c;
  c.x_box = {1, 1, 1, 1};
  for (const auto& [key, members] : classes) {
    Part part{f.taps[members[0]].offset, f.taps[members[0]].offset};
    for (const int t : members) {
      for (int a = 0; a < 4; ++a) {
        part.base[a] = std::min(part.base[a], f.taps[t].offset[a]);
        part.last[a] = std::max(part.last[a], f.taps[t].offset[a]);
      }
    }
    for (int a = 0; a < 4; ++a) {
      int32_t end = (box[a] - 1) * f.stride[a] + part.last[a];
      // Where one box has the whole axis and k-steps are single places along it, nothing outside the input is read.
      if (exact && step[a] == 1 && box[a] >= f.out[a]) {
        while (part.base[a] < 0) part.base[a] += f.stride[a];
        end = std::min(end, f.in[a] - 1);
      }
      c.x_box[a] = std::max(c.x_box[a], (end - part.base[a]) / f.stride[a] + 1);
    }
    for (const int t : members) c.taps.push_back(f.taps[t]), c.part_of.push_back(int(c.parts.size()));
    c.parts.push_back(part);
  }
  return c;
}

int32_t pixel_offset(const Frame& f, const Covering& c, int tap) {
  const Axes pitch = pitches(c.x_box);
  int32_t offset = 0;
  for (int a = 0; a < 4; ++a)
    offset += (c.taps[tap].offset[a] - c.parts[c.part_of[tap]].base[a]) / f.stride[a] * pitch[a];
  return offset;
}

std::vector<Group> make_groups(const Frame& f, const Covering& c, int slots, bool joined) {
  const int taps = int(c.taps.size());
  std::vector<int32_t> offset(taps);
  for (int t = 0; t < taps; ++t) offset[t] = pixel_offset(f, c, t);
  std::vector<bool> taken(taps);
  std::vector<Group> groups;
  std::vector<int> single;
  const auto unused = [&](int part, int32_t at) {
    for (int t = 0; t < taps; ++t)
      if (!taken[t] && c.part_of[t] == part && offset[t] == at) return t;
    return -1;
  };
  for (int count = slots; count >= 2; --count) {
    for (int t = 0; t < taps; ++t) {
      int32_t apart = std::numeric_limits<int32_t>::max();
      for (int u = 0; u < taps && !taken[t]; ++u) {
        const int32_t d = offset[u] - offset[t];
        if (taken[u] || c.part_of[u] != c.part_of[t] || d <= 0 || d >= apart) continue;
        bool all = true;
        for (int i = 2; i < count; ++i) all = all && unused(c.part_of[t], offset[t] + i * d) >= 0;
        if (all) apart = d;
      }
      if (apart == std::numeric_limits<int32_t>::max()) continue;
      Group g{{}, joined && count == slots};
      for (int i = 0; i < count; ++i) {
        g.taps.push_back(unused(c.part_of[t], offset[t] + i * apart));
        taken[g.taps.back()] = true;
      }
      groups.push_back(std::move(g));
    }
  }
  for (int t = 0; t < taps; ++t)
    if (!taken[t]) single.push_back(t);
  // As few groups as can be: the last ones fill those with a slot to spare.
  for (size_t i = 0; i < groups.size(); ++i) {
    while (int(groups[i].taps.size()) < slots && (!single.empty() || i + 1 < groups.size())) {
      if (single.empty()) {
        single = groups.back().taps;
        groups.pop_back();
      }
      groups[i].taps.push_back(single.back());
      single.pop_back();
    }
  }
  for (size_t i = 0; i < single.size(); i += size_t(slots))
    groups.push_back(
        {{single.begin() + int64_t(i), single.begin() + int64_t(std::min(single.size(), i + size_t(slots)))}, false});
  return groups;
}

std::vector<TapSet> make_tap_sets(const Covering& c, const std::vector<Group>& apart, int slots, int tile_k,
                                  int tile_c) {
  std::vector<Group> groups = apart;
  if (tile_c > 1) {
    groups.clear();
    for (int t = 0; t < int(c.taps.size()); ++t) groups.push_back({{t}, tile_c == slots});
  }
  const int at_once = kGradientTeams / tile_k, sets = int(ceil_div(int64_t(groups.size()), at_once));
  std::vector<TapSet> result;
  for (int i = 0; i < sets; ++i) {
    TapSet set;
    const int64_t count = int64_t(groups.size());
    for (int64_t g = count * i / sets; g < count * (i + 1) / sets; ++g) {
      for (const int t : groups[g].taps) {
        set.taps.push_back(t);
        if (std::ranges::find(set.parts, c.part_of[t]) == set.parts.end()) set.parts.push_back(c.part_of[t]);
      }
      set.groups.push_back(groups[g]);
    }
    result.push_back(std::move(set));
  }
  return result;
}

}  // namespace cks::cuda::hopper::gradient

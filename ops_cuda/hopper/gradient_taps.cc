#include "ops_cuda/hopper/gradient_taps.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

namespace cks::cuda::hopper::gradient {

Covering cover(const Frame& f, const Axes& box, const std::array<bool, 4>& margins, const std::array<bool, 4>& exact) {
  const Axes step = step_of(box);
  Covering c;
  c.x_box = {1, 1, 1, 1};
  // A k-step's operand is a row of shared memory: its pixels are neighbours there. Along other axes a box may have all
  // of X, which is one box where there would be one for each class of taps, if there is a tap in every class.
  for (int a = 0; a < 4; ++a) {
    std::set<int32_t> residues;
    for (const FrameTap& t : f.taps) residues.insert((t.offset[a] % f.stride[a] + f.stride[a]) % f.stride[a]);
    const bool all = margins[a] && step[a] == 1 && int32_t(residues.size()) == f.stride[a];
    c.x_step[a] = all ? 1 : f.stride[a];
  }
  std::map<Axes, std::vector<int>> classes;
  for (int t = 0; t < int(f.taps.size()); ++t) {
    Axes key;
    for (int a = 0; a < 4; ++a) {
      const int32_t o = f.taps[t].offset[a], s = c.x_step[a];
      key[a] = margins[a] ? (o % s + s) % s : o;
    }
    classes[key].push_back(t);
  }
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
      if (exact[a] && step[a] == 1 && box[a] >= f.out[a]) {
        while (part.base[a] < 0) part.base[a] += c.x_step[a];
        end = std::min(end, f.in[a] - 1);
      }
      c.x_box[a] = std::max(c.x_box[a], (end - part.base[a]) / c.x_step[a] + 1);
    }
    for (const int t : members) c.taps.push_back(f.taps[t]), c.part_of.push_back(int(c.parts.size()));
    c.parts.push_back(part);
  }
  return c;
}

int32_t pixel_offset(const Covering& c, int tap) {
  const Axes pitch = pitches(c.x_box);
  int32_t offset = 0;
  for (int a = 0; a < 4; ++a)
    offset += (c.taps[tap].offset[a] - c.parts[c.part_of[tap]].base[a]) / c.x_step[a] * pitch[a];
  return offset;
}

Axes step_pitches(const Frame& f, const Covering& c) {
  Axes pitch = pitches(c.x_box);
  for (int a = 0; a < 4; ++a) pitch[a] *= f.stride[a] / c.x_step[a];
  return pitch;
}

namespace {

// Taps equally far apart, as many as `most` each: rows of taps, then columns, then what is left, one by one.
std::vector<std::vector<int>> make_runs(const Covering& c, int most) {
  const int taps = int(c.taps.size());
  std::vector<int32_t> offset(taps);
  for (int t = 0; t < taps; ++t) offset[t] = pixel_offset(c, t);
  std::vector<bool> taken(taps);
  std::vector<std::vector<int>> runs;
  const auto unused = [&](int part, int32_t at) {
    for (int t = 0; t < taps; ++t)
      if (!taken[t] && c.part_of[t] == part && offset[t] == at) return t;
    return -1;
  };
  for (int count = most; count >= 2; --count) {
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
      std::vector<int>& run = runs.emplace_back();
      for (int i = 0; i < count; ++i) {
        run.push_back(unused(c.part_of[t], offset[t] + i * apart));
        taken[run.back()] = true;
      }
    }
  }
  for (int t = 0; t < taps; ++t)
    if (!taken[t]) runs.push_back({t});
  return runs;
}

}  // namespace

std::vector<Group> make_groups(const Covering& c, int slots, bool joined) {
  std::vector<Group> groups;
  std::vector<int> single;
  for (std::vector<int>& run : make_runs(c, slots)) {
    if (run.size() == 1) {
      single.push_back(run[0]);
    } else {
      const bool all = int(run.size()) == slots;
      groups.push_back({std::move(run), joined && all});
    }
  }
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

bool are_rows(const Frame& f, const Covering& c, const GradientShape& shape, const std::vector<Group>& teams) {
  bool rows = true;
  for (const Group& team : teams) {
    for_runs(shape, team, [&](std::span<const int> run) {
      for (const int t : run) {
        for (int a = 0; t != kMissing && a < 4; ++a)
          rows = rows && (f.logical[a] == 2 || c.taps[t].offset[a] == c.taps[run[0]].offset[a]);
      }
    });
  }
  return rows;
}

std::vector<Group> make_narrow_groups(const Covering& c, const GradientShape& shape) {
  const std::vector<std::vector<int>> runs = make_runs(c, shape.join);
  const int count = int(runs.size()), teams = std::min(kGradientTeams, count);
  if (ceil_div(count, teams) > shape.runs) return {};
  std::vector<Group> groups(size_t(teams), Group{{}, true});
  for (int i = 0; i < count; ++i) {
    std::vector<int>& taps = groups[size_t(i * teams / count)].taps;
    taps.insert(taps.end(), runs[size_t(i)].begin(), runs[size_t(i)].end());
    taps.resize(size_t(round_up(int64_t(taps.size()), shape.join)), kMissing);
  }
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
        if (t == kMissing) continue;
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

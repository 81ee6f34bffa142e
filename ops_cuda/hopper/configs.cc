// The configurations of the Hopper kernel that a problem has, and their names.
#include "ops_cuda/hopper/schedule.h"

namespace cks::cuda::hopper {

Operands multiplied(const Operands& o, const Config& c) {
  if (!c.halved) return o;
  return {sizeof(uint16_t), 1, round_up(o.channels, kHalvedBlock), o.curve, o.output_bytes};
}

Curve curve_of(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kNone:
    case ActivationKind::kRelu:
    case ActivationKind::kLeakyRelu:
    case ActivationKind::kPRelu:
    case ActivationKind::kClip:
      return Curve::kPiecewiseLinear;
    default:
      return Curve::kAny;
  }
}

std::vector<Config> all_configs(const Problem& p, const Operands& o) {
  int narrowest = kTileShapes[0].bn;
  for (const TileShape& s : kTileShapes) {
    if (s.curve == o.curve) narrowest = std::min(narrowest, s.bn);
  }
  std::vector<Config> configs;
  for (const TileShape& s : kTileShapes) {
    if (s.curve != o.curve) continue;
    if (s.bn > narrowest && p.filter.K <= s.bn / 2) continue;  // more than half of every tile would be empty
    if (s.source == Source::kPatches && !s.wide_patches() && p.filter.K > s.bn) continue;  // wider ones are better
    for (const bool halved : {false, true}) {
      if (halved && !(o.can_be_halved && s.serves_halved())) continue;
      const int element_bytes = halved ? int(sizeof(uint16_t)) : o.element_bytes;  // that are multiplied
      if (!s.serves(element_bytes, o.products)) continue;
      for (const int splits : {1, 2, 4, 8}) {
        if (splits > 1 && !s.can_be_split()) continue;
        for (int blocks = 1; blocks <= s.max_blocks_per_sm(o.products); ++blocks)
          configs.push_back({s, splits, blocks, false, halved});
      }
      if (s.can_be_cut()) configs.push_back({s, 1, 1, true, halved});
      if (!s.can_pair(element_bytes) || ceil_div(p.filter.K, s.bn) % 2 != 0) continue;
      configs.push_back({s, 1, 1, false, halved, true});
      if (s.can_be_cut()) configs.push_back({s, 1, 1, true, halved, true});
    }
  }
  return configs;
}

std::string name_of(const Config& c) {
  const auto team = [](Team t) {
    switch (t) {
      case Team::kSolo:
        return "solo";
      case Team::kShared:
        return "shared";
      case Team::kAlternate:
        return "alternate";
    }
    return "";
  };
  const auto source = [](Source s) {
    switch (s) {
      case Source::kBoxes:
        return "";
      case Source::kPatches:
        return " patches";
    }
    return "";
  };
  return std::string(team(c.shape.team)) + " " + std::to_string(c.shape.bm()) + "x" + std::to_string(c.shape.bn) +
         source(c.shape.source) + (c.splits > 1 ? " splits " + std::to_string(c.splits) : "") +
         (c.blocks_per_sm > 1 ? " two an SM" : "") + (c.cut ? " cut" : "") + (c.halved ? " of halves" : "") +
         (c.pairs ? " in pairs" : "");
}

std::optional<Config> config_named(std::string_view name, const Problem& p, const Operands& o) {
  if (name.empty()) return {};  // as in every plan without a search: no list of names need be made
  for (const Config& c : all_configs(p, o)) {
    if (name_of(c) == name) return c;
  }
  return {};
}

}  // namespace cks::cuda::hopper

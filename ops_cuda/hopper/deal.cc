#include "ops_cuda/hopper/deal.h"

#include <algorithm>
#include <numeric>
#include <queue>

namespace cks::cuda::hopper {
namespace {

// Gives tiles to the cluster that is free first, longest first, as a plan has them: the first `count` of them, which
// count by columns first. Calls take(cluster, piece); returns the cycles until each cluster is done.
template <class F>
std::vector<double> deal_whole(const Workload& w, int64_t count, const F& take) {
  using Load = std::pair<double, int>;
  std::vector<Load> loads(w.clusters);
  for (int i = 0; i < w.clusters; ++i) loads[i] = {w.cost.start + w.cost.last_tile, i};
  std::priority_queue<Load, std::vector<Load>, std::greater<>> queue(std::greater<>{}, std::move(loads));
  std::vector<double> done(w.clusters, w.cost.start + w.cost.last_tile);
  for (int64_t i = 0; i < count; ++i) {
    const int tile = int(i / w.columns), length = w.lengths[tile], cluster = queue.top().second;
    queue.pop();
    done[cluster] += w.cost.tile + w.cost.k_block * length;
    queue.push({done[cluster], cluster});
    take(cluster, Piece{tile, int(i % w.columns), 0, length, 0, Piece::kInStep});
  }
  return done;
}

// Gives each tile the blocks that share it, tiles of the most blocks first, so that none lies in two clusters. Calls
// take(cluster, piece).
template <class F>
void deal_shares(const Workload& w, const F& take) {
  std::vector<int> order(w.sharers.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>{}, [&](int tile) { return w.sharers[tile]; });
  int block = 0;
  for (const int tile : order) {
    const int length = w.lengths[tile], sharers = w.sharers[tile];
    for (int column = 0; column < w.columns; ++column, block += sharers)
      take(block / w.splits, Piece{tile, column, 0, length, 0, Piece::kInStep, block % w.splits, sharers});
  }
}

// Until the last block has done its share of a tile.
double cycles_of_shares(const Workload& w) {
  int64_t longest = 0;
  for (size_t i = 0; i < w.lengths.size(); ++i) longest = std::max(longest, ceil_div(w.lengths[i], w.sharers[i]));
  return w.cost.start + w.cost.last_tile + w.cost.tile + w.cost.k_block * double(longest);
}

constexpr int kShortestPart = 4;  // k-blocks

// So many tiles are dealt whole before any is cut, as long as there are two for each cluster: blocks that work on
// neighbours at the same time read the same lines.
int64_t tiles_in_step(const Workload& w) { return std::max<int64_t>(w.tiles() / w.clusters - 1, 0) * w.clusters; }

// Of the tiles behind those in step, with which a cluster is `done` after so many cycles, it fills one cluster after
// the other with what it can do in `cycles`, and cuts a tile where a cluster is full; who comes next goes on with it.
// What a cluster leaves it sums first, and early enough for who waits for it. Calls take(cluster, piece); false if the
// clusters cannot hold all tiles.
template <class F>
bool deal_cut(const Workload& w, const std::vector<double>& done, double cycles, const F& take) {
  const Cost& cost = w.cost;
  int cluster = 0;
  double room = cycles - done[0], left = room;  // of the current cluster
  for (int64_t i = tiles_in_step(w); i < w.tiles(); ++i) {
    const int tile = int(i / w.columns), length = w.lengths[tile];
    Piece piece{tile, int(i % w.columns), 0, length, 0, Piece::kWhole};
    const auto rest = [&] { return cost.tile + piece.before * cost.add + cost.k_block * (length - piece.lo); };
    while (rest() > left) {
      const double spare = std::min(left, room - cost.delay - cost.add) - cost.leave;
      const int fitting = std::min(int(spare / cost.k_block), length - piece.lo - kShortestPart);
      if (fitting >= kShortestPart) {
        piece.hi = piece.lo + fitting, piece.turn = Piece::kLeaves;
        take(cluster, piece);
        piece = {piece.tile, piece.column, piece.hi, length, piece.before + 1, Piece::kWaits};
      }
      if (++cluster == w.clusters) return false;
      left = room = cycles - done[cluster];
    }
    left -= rest();
    take(cluster, piece);
  }
  return true;
}

constexpr auto kNobody = [](int, const Piece&) {};

}  // namespace

std::vector<int> share_tiles(std::span<const int> lengths, int columns, int splits, int64_t blocks) {
  std::vector<int> sharers(lengths.size(), 1);
  int64_t left = blocks - int64_t(sharers.size()) * columns;
  while (left >= 0) {
    const auto share = [&](size_t i) { return double(lengths[i]) / sharers[i]; };
    double longest = 0;
    for (size_t i = 0; i < sharers.size(); ++i) longest = std::max(longest, share(i));
    int64_t more = 0, most = 0;
    for (size_t i = 0; i < sharers.size(); ++i) {
      if (share(i) == longest) more += sharers[i] * columns, most = std::max<int64_t>(most, sharers[i]);
    }
    if (most == splits || more > left) break;
    left -= more;
    for (size_t i = 0; i < sharers.size(); ++i) {
      if (share(i) == longest) sharers[i] *= 2;
    }
  }
  if (left < 0 || std::ranges::max(sharers) < splits) return {};
  return sharers;
}

double even_share(const Workload& w) {
  if (!w.sharers.empty()) return cycles_of_shares(w);
  double all = 0;
  for (const int length : w.lengths) all += w.cost.tile + w.cost.k_block * length;
  return w.cost.start + w.cost.last_tile + all * w.columns / w.clusters;
}

Deal choose_deal(const Workload& w) {
  if (!w.sharers.empty()) return {cycles_of_shares(w), false};
  // Many waves even out by themselves.
  if (w.tiles() > 32 * w.clusters) return {even_share(w), false};
  Deal best{std::ranges::max(deal_whole(w, w.tiles(), kNobody)), false};
  if (!w.can_be_cut) return best;
  const std::vector<double> done = deal_whole(w, tiles_in_step(w), kNobody);
  double least = even_share(w);
  while (least < best.cycles * 0.995) {
    const double between = (least + best.cycles) / 2;
    if (deal_cut(w, done, between, kNobody)) {
      best = {between, true};
    } else {
      least = between;
    }
  }
  return best;
}

Dealt deal(const Workload& w, const Deal& how) {
  Dealt r{std::vector<std::vector<Piece>>(size_t(w.clusters)), how.cycles};
  const auto take = [&](int cluster, const Piece& piece) { r.pieces[cluster].push_back(piece); };
  if (how.cut) {
    deal_cut(w, deal_whole(w, tiles_in_step(w), take), how.cycles, take);
  } else if (!w.sharers.empty()) {
    deal_shares(w, take);
  } else {
    r.cycles = std::ranges::max(deal_whole(w, w.tiles(), take));
  }
  for (std::vector<Piece>& pieces : r.pieces) std::ranges::stable_sort(pieces, {}, &Piece::turn);
  return r;
}

}  // namespace cks::cuda::hopper

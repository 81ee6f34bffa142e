// The warp that stores: for each team one empties the ring of finished slabs.
#pragma once
#include "ops_cuda/hopper/tile.cuh"
#include "ops_cuda/hopper/tile_parts.cuh"
#include "ops_cuda/hopper/work_list.cuh"

namespace cks::cuda::hopper {

template <class Tile>
struct StoreWarp {
  using Barriers = typename Tile::Barriers;
  static constexpr int BM = Tile::BM, BN = Tile::BN, kTeams = Tile::kTeams, kSlab = Tile::kSlab,
                       kSlabBytes = Tile::kSlabBytes, kStaged = Tile::kStaged;

  // The slabs that a team leaves, in order: of tiles to store, or of parts of a sum. All lanes of a warp together.
  class Slabs {
   public:
    __device__ Slabs(const WorkReader& work, int team) : work_(work), skip_(team) {}
    __device__ bool next(const Params& p) {
      if (++slab_ < count_) return true;
      slab_ = count_;  // past the last item too, where this may be asked again
      for (; skip_ >= 0; --skip_) {
        if (!work_.next()) return false;
        work_.fetch_next();
      }
      skip_ = kTeams - 1;
      slab_ = 0, count_ = (min(BN, p.K - work_.sum().k0) + kSlab - 1) / kSlab;
      const auto to = work_.output();
      first_ = {work_.sum().k0, to.w, to.h, to.d, work_.input().n};
      if constexpr (Tile::kCanBeCut) {
        part_ = work_.part();
        if (is_part()) count_ = TileParts<Tile>::kSlabs;
      }
      return true;
    }
    __device__ bool is_last_of_tile() const { return slab_ + 1 == count_; }
    __device__ bool is_part() const { return Tile::kCanBeCut && work_.sum().parts == WorkItem::kPart; }
    __device__ int slab() const { return slab_; }
    __device__ const WorkItem::Part& part() const { return part_; }
    __device__ Coordinates at() const { return {first_.c + slab_ * kSlab, first_.w, first_.h, first_.d, first_.n}; }

   private:
    WorkReader work_;
    int skip_, slab_ = 0, count_ = 0;
    Coordinates first_;
    WorkItem::Part part_;
  };

  static __device__ void run(const Params& p, const WorkReader& work, uint32_t stages, const Barriers& bars, int team) {
    p.epilogue.residual ? store_all<true>(p, work, stages, bars, team) : store_all<false>(p, work, stages, bars, team);
  }

 private:
  template <bool kResidual>
  static __device__ void store_all(const Params& p, const WorkReader& work, uint32_t stages, const Barriers& bars,
                                   int team) {
    const bool elected = elect_lane();
    const auto buffer = [&](int i) { return stages + i * (BM * kSlabBytes); };
    Slabs going(work, team), coming = going;
    PipelineState prepared, sent;
    // Free buffers are made ready: the residual, if there is one, goes where the slab will.
    const auto prepare = [&](int count) {
#pragma unroll 1
      for (; count > 0 && (!kResidual || coming.next(p)); --count) {
        const uint32_t ready = shared_address(&bars.ready[team][prepared.stage]);
        if (elected) {
          if (kResidual && !coming.is_part()) {
            barrier_expect(ready, p.box_bytes / 128 * kSlabBytes);
            copy_box(buffer(prepared.stage), &p.residual, ready, coming.at());
          } else {
            barrier_arrive(ready);
          }
        }
        prepared.advance(kStaged);
      }
    };
    int taken = kStaged;  // buffers that have not been made ready, whether stores may be reading them or not
    bool within_tile = false, ends_part = false;  // the last slab
    WorkItem::Part part;
    wait_for_previous_grid();
    while (true) {
      const bool any = going.next(p);  // while the last slab is read: a block has ended when all have been
      // Within a tile the next slab is about to be there: one store may read beside it.
      const int may_read = any && within_tile && kStaged > 1;
      if (elected) may_read ? store_wait_read<1>() : store_wait_read<0>();
      if (elected && ends_part) TileParts<Tile>::tell(p, part);
      if (!any) return;
      prepare(taken - may_read);
      taken = may_read + 1;
      const uint32_t from = buffer(sent.stage);
      const Coordinates at = going.at();
      barrier_wait(shared_address(&bars.staged[team][sent.stage]), sent.parity);
      if (elected) {
        if (going.is_part()) {
          TileParts<Tile>::send(p, going.part(), going.slab(), from);
        } else {
          store_box(&p.y, from, at);
        }
        store_commit();
      }
      sent.advance(kStaged);
      within_tile = !going.is_last_of_tile(), ends_part = going.is_part() && !within_tile, part = going.part();
    }
  }
};

}  // namespace cks::cuda::hopper

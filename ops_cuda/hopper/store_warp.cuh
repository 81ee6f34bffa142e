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
      for (; skip_ >= 0; --skip_)
        if (!work_.next()) return false;
      skip_ = kTeams - 1;
      slab_ = 0, count_ = (min(BN, p.K - work_.sum().k0) + kSlab - 1) / kSlab;
      if (is_part()) count_ = TileParts<Tile>::kSlabs;
      return true;
    }
    __device__ bool is_last_of_tile() const { return slab_ + 1 == count_; }
    __device__ bool is_part() const { return Tile::kCanBeCut && work_.sum().parts == WorkItem::kPart; }
    __device__ int slab() const { return slab_; }
    __device__ WorkItem::Part part() const { return work_.read_part(); }
    __device__ Coordinates at() const {
      const auto& to = work_.output();
      return {work_.sum().k0 + slab_ * kSlab, to.w, to.h, to.d, work_.input().n};
    }

   private:
    WorkReader work_;
    int skip_, slab_ = 0, count_ = 0;
  };

  static __device__ void run(const Params& p, const WorkReader& work, uint32_t stages, const Barriers& bars, int team) {
    const int lane = threadIdx.x % 32;
    const auto buffer = [&](int i) { return stages + i * (BM * kSlabBytes); };
    Slabs coming(work, team), going(work, team);
    PipelineState prepared, sent;
    int free = kStaged;
    // A free buffer is made ready: the residual, if there is one, goes where the slab will.
    const auto prepare = [&] {
      while (free > 0 && coming.next(p)) {
        --free;
        if (lane == 0) {
          const uint32_t ready = shared_address(&bars.ready[team][prepared.stage]);
          if (p.epilogue.residual && !coming.is_part()) {
            barrier_expect(ready, p.box_bytes / 128 * kSlabBytes);
            copy_box(buffer(prepared.stage), &p.residual, ready, coming.at());
          } else {
            barrier_arrive(ready);
          }
        }
        prepared.advance(kStaged);
      }
    };
    wait_for_previous_grid();
    prepare();
    bool pending = false;  // whether the last store may still be reading
    while (going.next(p)) {
      if (lane == 0) {
        barrier_wait(shared_address(&bars.staged[team][sent.stage]), sent.parity);
        if (going.is_part()) {
          TileParts<Tile>::send(p, going.part(), going.slab(), buffer(sent.stage));
        } else {
          store_box(&p.y, buffer(sent.stage), going.at());
        }
        store_commit();
      }
      sent.advance(kStaged);
      // Within a tile the next slab is about to be there: one store may read beside it.
      const bool was_pending = pending;
      pending = kStaged > 1 && !going.is_last_of_tile();
      if (lane == 0) pending ? store_wait_read<1>() : store_wait_read<0>();
      if (lane == 0 && going.is_part() && going.is_last_of_tile()) TileParts<Tile>::tell(p, going.part());
      free += was_pending + !pending;
      prepare();
    }
    if (lane == 0) store_wait_read<0>();
  }
};

}  // namespace cks::cuda::hopper

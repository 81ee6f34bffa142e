#include "ops_cuda/few_inputs_plan.h"

#include <algorithm>
#include <limits>

#include "ops_cuda/output_cells.h"
#include "ops_cuda/pack.h"

namespace cks::cuda {
namespace {

// Groups that are multiplied together, within what packing already put together: up to 16 channels on either side,
// which is what a step of the tensor cores multiplies anyway.
int64_t members_of(const Filter& f) {
  const int64_t group_c = f.C / f.groups, group_k = f.K / f.groups, packed = f.groups / gemm_groups(f).count;
  int64_t members = 1;
  for (int64_t m = 2; m <= packed && m * group_c <= 16 && m * group_k <= 16; ++m)
    if (packed % m == 0) members = m;
  return members;
}

Int3 patch_of(const Problem& p, const Int3& box) {
  const auto extent = [&](int axis, int32_t pixels) {
    return int32_t((pixels - 1) * p.stride[axis] + (p.filter.extent[axis] - 1) * p.dilation[axis] + 1);
  };
  return {extent(0, box.d), extent(1, box.h), extent(2, box.w)};
}

struct Box3 {
  Int3 pixels, patch;
  bool runs;  // rows of its patches begin at the same element of a chunk, everywhere
};

// The box that loads and multiplies least. A thread stores four neighbours along w, so boxes are no narrower.
// row_elements: of a pixel in the rows of x; 0 where rows cannot be read by chunks. matrices: 64 pixels of the box are
// eight times eight in a row, equally far apart in the patch.
Box3 choose_box(const Problem& p, int pixels, bool matrices, int64_t pixel_pitch, int64_t row_elements, int64_t chunk) {
  Box3 best;
  double best_cost = 0;
  for (int w = 4; w <= pixels; w *= 2)
    for (int h = 1; w * h <= pixels; h *= 2) {
      if (matrices && w < 64 && (w != 8 || h < 8)) continue;
      const Int3 box{pixels / w / h, h, w}, patch = patch_of(p, box);
      const bool alike = w >= p.output[2] || w * p.stride[2] * row_elements % chunk == 0;
      const bool runs = row_elements > 0 && alike;
      const double tiles = double(ceil_div(p.output[0], box.d)) * double(ceil_div(p.output[1], box.h)) *
                           double(ceil_div(p.output[2], box.w));
      // A row of the patch costs a few elements more than it has, an element copied alone as much as several.
      const double row = (double(patch.w) * double(pixel_pitch) + 16) * (row_elements > 0 && !runs ? 4 : 1);
      const double cost = tiles * (16 * pixels + double(patch.d) * patch.h * row);  // a pixel's own work is worth 16
      if (best_cost == 0 || cost < best_cost) best = {box, patch, runs}, best_cost = cost;
    }
  return best;
}

// The slices of a problem, and what to cut it into.
struct Cut {
  int64_t slices, slice_c, slice_k;
  FewInputsShape shape;
  int columns, patches;
};

// Whether a pixel's channels fill whole chunks, or so nearly that padding costs less than listing words; and can be
// copied by halves of chunks.
bool fill_chunks(int64_t bytes) { return bytes % 8 == 0 && round_up(bytes, 16) * 3 <= bytes * 4; }

// What a plan takes its weights from: a filter, or one of which output cells are made.
class Weights {
 public:
  Weights(const Filter& f, DataType type, const OutputCells* cells)
      : filter_(f), k_(gemm_groups(f).k), pitch_(padded_channels(gemm_groups(f).c, type)), cells_(cells) {}

  // Offset at channel 0 of a tap of the problem that is computed, at k = 0 or less what a FewInputsColumn has.
  int64_t of_tap(int64_t t, int64_t r, int64_t s) const {
    if (cells_) {
      const Dims taps = cells_->problem.filter.extent;
      t = (taps[0] - 1 - t) * cells_->extent.d, r = (taps[1] - 1 - r) * cells_->extent.h;
      s = (taps[2] - 1 - s) * cells_->extent.w;
    }
    return of_own_tap(t, r, s);
  }

  // The columns of output cells: neighbours are neighbours in y, as far as there are any. Empty where y is too large.
  std::vector<FewInputsColumn> columns(const Dims& output, Layout layout) const {
    const bool planes = layout == Layout::kNCHW;
    const int64_t K = filter_.K, pixel = planes ? 1 : K, row = output[2] * pixel, plane = output[1] * row;
    const Int3 cell = cells_->extent, first = cells_->first_tap;
    const int64_t in_cell = int64_t(cell.d) * cell.h * cell.w;
    std::vector<FewInputsColumn> columns;
    if (cell.d * plane + (planes ? K * output[0] * plane : 0) > std::numeric_limits<int32_t>::max()) return columns;
    for (int64_t i = 0; i < in_cell * K; ++i) {
      const int64_t k = planes ? i / in_cell : i % K, q = planes ? i % in_cell : i / K;
      const Int3 a{int32_t(q / cell.w / cell.h), int32_t(q / cell.w % cell.h), int32_t(q % cell.w)};
      columns.push_back({int32_t(of_own_tap(first.d + a.d, first.h + a.h, first.w + a.w) + k * pitch_), int32_t(k), a,
                         int32_t(a.d * plane + a.h * row + a.w * pixel + k * (planes ? output[0] * plane : 1))});
    }
    return columns;
  }

  // The columns that have a weight for a tap of the problem that is computed, as bits.
  uint64_t met_by(const std::vector<FewInputsColumn>& columns, int64_t t, int64_t r, int64_t s) const {
    const Dims taps = cells_->problem.filter.extent;
    const auto meets = [&](int axis, int64_t j, int32_t first, int32_t a, int32_t cell) {
      const int64_t tap = first + a + (taps[size_t(axis)] - 1 - j) * cell;
      return tap >= 0 && tap < filter_.extent[size_t(axis)];
    };
    const Int3 cell = cells_->extent, first = cells_->first_tap;
    uint64_t bits = 0;
    for (size_t i = 0; i < columns.size(); ++i) {
      const Int3 a = columns[i].in_cell;
      if (meets(0, t, first.d, a.d, cell.d) && meets(1, r, first.h, a.h, cell.h) && meets(2, s, first.w, a.w, cell.w))
        bits |= uint64_t(1) << i;
    }
    return bits;
  }

 private:
  int64_t of_own_tap(int64_t t, int64_t r, int64_t s) const {
    return ((t * filter_.extent[1] + r) * filter_.extent[2] + s) * k_ * pitch_;
  }

  Filter filter_;
  int64_t k_, pitch_;
  const OutputCells* cells_;
};

// None where it takes more shared memory a thread block.
std::optional<FewInputsPlan> plan_cut(const Problem& source, const OutputCells* cells, DataType type, Layouts layouts,
                                      const Cut& cut, int shared_bytes) {
  const Problem& p = cells ? cells->problem : source;
  const Filter& f = p.filter;
  FewInputsPlan plan;
  plan.problem = p;
  plan.shape = cut.shape, plan.columns = cut.columns, plan.patches = cut.patches;
  plan.slices = cut.slices, plan.slice_c = int32_t(cut.slice_c), plan.slice_k = int32_t(cut.slice_k);
  const int64_t per_word = 4 / int64_t(size_of(type)), chunk = 4 * per_word, slice_c = cut.slice_c;

  // Eight pixels are read at once: an odd number of chunks apart they do not meet in a bank.
  const bool words = cut.shape.loop == FewInputsLoop::kWords, wgmma = cut.shape.loop == FewInputsLoop::kWgmma;
  const int64_t together = wgmma ? 2 * chunk : chunk;  // of a pixel's elements, in the patch
  plan.pixel_pitch = int32_t(wgmma ? together : words ? slice_c : (ceil_div(slice_c, chunk) | 1) * chunk);
  const bool joined = words && p.dilation[2] == 1;  // the taps of a filter row
  const int64_t S = f.extent[2], run_taps = joined ? S : 1, run = run_taps * slice_c;
  const bool odd = plan.pixel_pitch % per_word != 0;
  if (odd && !joined && S > 1) return {};  // runs would begin at odd elements
  plan.shifted = odd && p.stride[2] % 2 != 0;

  const bool planes = layouts.x == Layout::kNCHW && f.C > 1;
  const bool chunks = !planes && f.C % chunk == 0 && slice_c % chunk == 0;
  const bool halves = !planes && !chunks && !words;
  if ((cut.patches == 2 || wgmma) && !chunks && !halves) return {};  // only those are copied beside products
  if (wgmma && (!chunks || p.stride[2] != 1)) return {};
  // A thread copies one part of a pixel.
  if (!words && slice_c / (halves ? chunk / 2 : chunk) > 32 * cut.shape.warps) return {};
  const int64_t in_row = planes ? 1 : f.C;  // elements of a pixel in a row of x
  const bool whole_rows = (planes || plan.pixel_pitch == f.C) && p.input[2] * in_row % chunk == 0;
  const Box3 box = choose_box(p, cut.shape.pixels(), wgmma, wgmma ? slice_c : plan.pixel_pitch,
                              whole_rows && !chunks && !halves ? in_row : 0, chunk);
  plan.box = box.pixels, plan.patch = box.patch;
  if (chunks || halves)
    plan.source = chunks ? PatchSource::kChunks : PatchSource::kHalves;
  else if (box.runs)
    plan.source = planes ? PatchSource::kPlaneRuns : PatchSource::kRuns;
  else
    plan.source = planes ? PatchSource::kPlanes : PatchSource::kElements;

  // All that a row copies lies between its begin and the next one's; where each pair of elements is one of the first
  // patch, the first pixel is put at an even element.
  plan.lead = box.runs ? int32_t(round_up(p.pad[2] * in_row, chunk) - p.pad[2] * in_row) : 0;
  const int64_t stretch = planes ? plan.pixel_pitch : 1;  // patch elements an element of x
  const int64_t lead = plan.lead * stretch;
  plan.origin = int32_t(lead + (plan.shifted ? 2 : lead % per_word));
  const int64_t row_pitch =
      round_up(round_up(plan.lead + plan.patch.w * (planes ? 1 : int64_t(plan.pixel_pitch)), chunk) * stretch, chunk);
  int64_t patch_elements = row_pitch * plan.patch.d * plan.patch.h + chunk;
  plan.chunk_pitch = int32_t(chunk);
  if (wgmma) {  // eight chunks that are copied at once go to different banks
    const int64_t pairs = slice_c / together;
    plan.matrix_pitch = int32_t(plan.box.w == 8 ? p.stride[1] * row_pitch : 8 * plan.pixel_pitch);
    plan.chunk_pitch = int32_t(round_up(patch_elements, 8 * chunk) + std::max<int64_t>(4 / pairs, 1) * together);
    patch_elements = round_up(pairs * plan.chunk_pitch, 8 * chunk);
  }
  const int64_t patch_words = patch_elements / per_word;
  if (patch_words * 4 * cut.patches > shared_bytes) return {};
  plan.row_pitch = int32_t(row_pitch), plan.patch_words = int32_t(patch_words);

  const Weights weights(source.filter, type, cells);
  if (cells) {
    plan.cell = cells->extent, plan.cell_columns = weights.columns(source.output, layouts.y);
    if (plan.cell_columns.empty()) return {};
  }
  const int64_t listed = words ? run : round_up(run, chunk);
  for (int64_t t = 0; t < f.extent[0]; ++t)
    for (int64_t r = 0; r < f.extent[1]; ++r)
      for (int64_t s = 0; s < S; s += run_taps) {
        const int64_t begin =
            (t * p.dilation[0] * plan.patch.h + r * p.dilation[1]) * row_pitch + s * p.dilation[2] * plan.pixel_pitch;
        const auto weight = [&](int64_t i) {
          return i < run ? int32_t(weights.of_tap(t, r, s + i / slice_c) + i % slice_c) : -1;
        };
        for (int64_t i = 0; i < listed; i += per_word)
          plan.words.push_back({int32_t((begin + i / together * plan.chunk_pitch + i % together) / per_word),
                                i + per_word <= run ? 0xffffffffu
                                : i < run           ? 0x0000ffffu
                                                    : 0,
                                {weight(i), per_word == 2 ? weight(i + 1) : -1}});
        if (cells) plan.met_by.resize(plan.words.size() / 4, weights.met_by(plan.cell_columns, t, r, s));
      }
  while (plan.words.size() % 8) plan.words.push_back({0, 0, {-1, -1}});
  if (cells) plan.met_by.resize(plan.words.size() / 4);
  if (!words && plan.steps() > kFewInputsMostSteps) return {};
  if (plan.shared_bytes() > shared_bytes) return {};
  return plan;
}

int64_t blocks_of(const FewInputsPlan& plan, const Problem& p) {
  return plan.slices * ceil_div(plan.slice_k, plan.columns) * std::max<int64_t>(p.N, 1) *
         ceil_div(p.output[0], plan.box.d) * ceil_div(p.output[1], plan.box.h) * ceil_div(p.output[2], plan.box.w);
}

// As many as have tiles and fit.
int teams_of(const FewInputsPlan& plan, const Problem& p, const Device& device) {
  const int64_t fit = (device.shared_bytes - 1024 - plan.filter_bytes() - plan.columns_bytes()) / plan.patches_bytes();
  const int64_t have_tiles = std::max<int64_t>(ceil_div(blocks_of(plan, p), device.multiprocessors), 1);
  return int(std::min({fit, have_tiles, int64_t(kFewInputsMostTeams)}));
}

// Roughly what a plan of steps takes, in cycles of a multiprocessor, which reads 128 bytes of shared memory in one and
// moves some 40 to or from the L2 cache. A product of 16 x 8 pixels and channels by 32 bytes takes mma.sync two and a
// half, or as long as its operands are read, one of 64 x 32 wgmma 46, and of 64 x 64 some 80 (measured).
double cycles_of(const FewInputsPlan& plan, const Problem& p, DataType type, const Device& device) {
  const FewInputsShape& shape = plan.shape;
  const bool wgmma = shape.loop == FewInputsLoop::kWgmma;
  const double size = double(size_of(type)), tiles = plan.steps() * shape.warps * shape.row_tiles;
  const double products = wgmma ? tiles * (3 + plan.columns * 0.265)
                                : tiles * std::max(plan.columns / 8 * 2.5, 4 + plan.columns / 4. / shape.row_tiles);
  const double loads = double(plan.patch.d) * plan.patch.h * plan.patch.w * plan.slice_c * size / 40;
  const double moved = loads + shape.pixels() * std::min(plan.slice_k, plan.columns) * size / 40;
  const int64_t blocks = blocks_of(plan, p);
  if (wgmma) {
    const int64_t each = ceil_div(blocks, device.multiprocessors), turns = ceil_div(each, plan.teams);
    const double copy = 1500 + loads, store = 1000 + 3. * shape.row_tiles * plan.columns;
    const double alone = products + store + (plan.patches == 2 && turns > 1 ? 0 : copy);  // a tile, of a team
    return plan.filter_bytes() / 40. + copy +
           std::max(double(each) * std::max(products, moved) + store, double(turns) * alone);
  }
  // A tile takes some thousands of cycles from its block's launch to the last store, and 60 a step, if it is alone.
  const int64_t fit = std::min(device.shared_bytes / (plan.shared_bytes() + 1024),
                               by_parts(plan.source) || shape.warps == 4 ? few_inputs_resident(shape.warps) : 1);
  const int64_t together = std::min<int64_t>(fit, ceil_div(blocks, device.multiprocessors));
  const double rounds = double(ceil_div(blocks, device.multiprocessors * together));
  const bool overlap = together > 1 || (plan.patches == 2 && rounds > 1);
  const double busy = std::max(products, moved) + (overlap ? 0 : 0.75 * std::min(products, moved));
  return double(together) * plan.filter_bytes() / 40. + loads +
         rounds * std::max(double(together) * busy + 1000, 3000 + 60. * plan.steps());
}

}  // namespace

std::optional<FewInputsPlan> plan_few_inputs(const Problem& source, DataType type, Layouts layouts,
                                             const Device& device) {
  if (!has_tensor_cores(type, device)) return {};
  const std::optional<OutputCells> in_cells = output_cells(source);
  const OutputCells* const cells = in_cells ? &*in_cells : nullptr;
  const Problem& p = cells ? cells->problem : source;
  const Filter& f = p.filter;
  if (f.op != Operator::kConv || (cells && f.K > kFewInputsMostColumns)) return {};
  // The kernels count elements of a row, rows and slices in 32 bits, and those of planes of y, if there are several.
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max(), kMostFilters = 65535, kMostPixels = 512;
  if (p.input[2] * f.C > kMost || p.input[0] * p.input[1] > kMost || p.input[0] * f.C > kMost) return {};
  const int64_t y_row = source.output[2] * source.filter.K * (cells ? cells->extent.h : 1);
  const int64_t y_plane = source.output[1] * source.output[2] * source.filter.K * (cells ? cells->extent.d : 1);
  if (y_row > kMost || (source.output[0] > 1 && y_plane > kMost)) return {};
  for (int axis = 0; axis < 3; ++axis) {
    if (p.stride[axis] * kMostPixels + p.dilation[axis] * f.extent[axis] > kMost) return {};
  }
  const int64_t members = members_of(f), slices = f.groups / members;
  const int64_t slice_c = f.C / slices, slice_k = f.K / slices, slice_bytes = slice_c * int64_t(size_of(type));
  if (f.taps() * slice_c > 2048) return {};  // many channels after all: the filter would not fit
  const int columns = slice_k <= 16 ? 16 : slice_k <= 32 ? 32 : kFewInputsMostColumns;
  if (slices * ceil_div(slice_k, 16) > kMostFilters) return {};
  Cut cut{slices, slice_c, slice_k, kFewInputsWords, columns, 1};

  // Slices lie in chunks in the filter too. Planes are copied element by element, whose places words cost no more.
  const bool in_steps = layouts.x == Layout::kNCHW && !cells ? slice_bytes % 32 == 0
                        : slices > 1                         ? slice_bytes % 16 == 0
                                                             : fill_chunks(slice_bytes);
  std::optional<FewInputsPlan> best;
  double best_cycles = 0;
  const auto consider = [&](const FewInputsShape& shape) {
    for (cut.patches = 1; cut.patches <= 2; ++cut.patches) {
      cut.shape = shape;
      auto plan = plan_cut(source, cells, type, layouts, cut, device.shared_bytes - 1024);
      if (!plan) continue;
      if (shape == kFewInputsWgmma) plan->teams = teams_of(*plan, p, device);
      const double cycles = cycles_of(*plan, p, type, device);
      if (!best || cycles < best_cycles) best = plan, best_cycles = cycles;
    }
  };
#ifdef ORT_CKS_HOPPER
  if (device.capability == 90 && size_of(type) == 2 && layouts == Layout::kNHWC && slice_k > 16 &&
      slice_bytes % 32 == 0) {
    consider(kFewInputsWgmma);
  }
#endif
  for (; in_steps && !best && cut.columns >= 16; cut.columns /= 2) {  // fewer where the filter does not fit
    consider(kFewInputsSmall);
    consider(few_inputs_large(cut.columns));
    if (cells) break;  // a thread block has all of a cell's columns
  }
  if (best || cells || slice_bytes % 32 == 0) return best;
  cut.shape = kFewInputsWords, cut.columns = columns, cut.patches = 1;
  return plan_cut(source, nullptr, type, layouts, cut, half_of_shared(device));
}

}  // namespace cks::cuda

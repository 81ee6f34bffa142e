// The plans of the kernels for few channels, and the choice among kernels, without a GPU.
#include <cstdio>
#include <map>
#include <random>

#include "ops_cuda/depthwise_plan.h"
#include "ops_cuda/few_inputs_plan.h"
#include "ops_cuda/few_outputs_plan.h"
#include "ops_cuda/kernel_choice.h"
#include "ops_cuda/pack.h"

using namespace cks;
using namespace cks::cuda;

namespace {

int failed = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  if (++failed < 20) std::printf("FAILED: %s\n", what);
}

constexpr Device kH200{90, 132, 228 << 10}, kTuring{75, 40, 64 << 10};

int64_t pick(std::mt19937& random, std::initializer_list<int64_t> from) {
  return from.begin()[std::uniform_int_distribution<size_t>(0, from.size() - 1)(random)];
}

Layouts random_layouts(std::mt19937& random) {
  const auto layout = [&] { return pick(random, {0, 1}) ? Layout::kNHWC : Layout::kNCHW; };
  return {layout(), layout()};
}

Problem random_problem(std::mt19937& random, Operator op, int64_t groups, int64_t group_c, int64_t group_k) {
  for (;;) {
    Problem p;
    p.filter = {op, groups * group_c, groups * group_k, groups, {1, 1, 1}};
    p.N = pick(random, {1, 3});
    bool valid = true;
    for (size_t i = size_t(pick(random, {0, 1, 1, 2})); i < 3; ++i) {
      const int64_t f = pick(random, {1, 2, 3, 4, 5, 7, 9}), s = pick(random, {1, 2, 3, 4}),
                    d = pick(random, {1, 1, 2, 3});
      p.filter.extent[i] = f, p.stride[i] = s, p.dilation[i] = d;
      p.input[i] = pick(random, {1, 5, 14, 33, 100});
      p.pad[i] = pick(random, {0, 1, (f - 1) * d / 2, (f - 1) * d});
      p.output[i] = op == Operator::kConv ? (p.input[i] + 2 * p.pad[i] - (f - 1) * d - 1 + s) / s
                                          : (p.input[i] - 1) * s + (f - 1) * d + 1 - 2 * p.pad[i];
      valid = valid && p.output[i] > 0 && p.input[i] + 2 * p.pad[i] > (f - 1) * d;
    }
    if (valid) return p;
  }
}

// Where pixel i of the box begins in the patch, rows of the box after each other.
int64_t in_patch(const Problem& p, const FewInputsPlan& plan, int64_t i) {
  const int64_t w = i % plan.box.w, h = i / plan.box.w % plan.box.h, d = i / plan.box.w / plan.box.h;
  return (d * p.stride[0] * plan.patch.h + h * p.stride[1]) * plan.row_pitch + w * p.stride[2] * plan.pixel_pitch;
}

// What wgmma reads: 64 pixels as eight times eight rows of 32 bytes, equally far apart; planes of such rows apart from
// each other.
void check_matrices(const Problem& p, const FewInputsPlan& plan) {
  const int64_t row = 16;
  expect(plan.pixel_pitch == row && plan.matrix_pitch % row == 0 && plan.chunk_pitch % row == 0, "whole rows");
  for (int64_t i = 0; i < plan.shape.pixels(); ++i)
    expect(in_patch(p, plan, i) ==
               in_patch(p, plan, i / 64 * 64) + i % 64 / 8 * plan.matrix_pitch + i % 8 * plan.pixel_pitch,
           "64 pixels are eight times eight");
  expect(int64_t(plan.row_pitch) * plan.patch.d * plan.patch.h <= plan.chunk_pitch, "a plane holds its chunks");
  expect(plan.chunk_pitch * plan.slice_c / row <= plan.patch_words * 2, "the patch its planes");
  expect(plan.patch_words * 4 % 32 == 0, "and the next patch begins at a row");
}

// By the definition in plan/problem.h: the input that output o meets through tap t on an axis, if any.
bool meets(const Problem& p, int axis, int64_t o, int64_t t, int64_t& input) {
  const int64_t s = p.stride[axis], reach = t * p.dilation[axis];
  if (p.filter.op == Operator::kConv) {
    input = o * s - p.pad[axis] + reach;
    return true;
  }
  const int64_t at = o + p.pad[axis] - reach;
  input = at / s;
  return at % s == 0;
}

// Each output of a cell meets what it does by definition, through the weights that its column finds.
void check_cells(const Problem& p, const FewInputsPlan& plan, DataType type, Layout layout) {
  const Dims &taps = p.filter.extent, &of_cell = plan.problem.filter.extent, &output = p.output;
  const int64_t K = p.filter.K, pitch = padded_channels(p.filter.C, type), chunk = 16 / int64_t(size_of(type));
  const size_t tap_words = size_t(round_up(p.filter.C, chunk) * int64_t(size_of(type)) / 4);
  const Dims cell{plan.cell.d, plan.cell.h, plan.cell.w};
  expect(int64_t(plan.cell_columns.size()) == volume(cell) * K && plan.cell_columns.size() <= size_t(plan.columns),
         "a column for each output of a cell");
  expect(plan.met_by.size() * 4 == plan.words.size(), "all chunks tell what they meet");
  for (size_t i = 0; i < plan.cell_columns.size(); ++i) {
    const FewInputsColumn& column = plan.cell_columns[i];
    const Dims in_cell{column.in_cell.d, column.in_cell.h, column.in_cell.w};
    const int64_t pixel = (in_cell[0] * output[1] + in_cell[1]) * output[2] + in_cell[2];
    expect(column.in_y == (layout == Layout::kNHWC ? pixel * K + column.k : column.k * volume(output) + pixel),
           "a column knows its place in y");
    int64_t met = 0, by_definition = 0;
    for (int64_t tap = 0; tap < volume(of_cell); ++tap) {
      const size_t word = size_t(tap) * tap_words;
      if ((plan.met_by[word / 4] >> i & 1) == 0) continue;
      ++met;
      const int64_t weight = plan.words[word].weight[0] + column.filter, own = weight / (K * pitch);
      expect(weight % (K * pitch) == column.k * pitch && own >= 0 && own < volume(taps), "its own weights");
      const Dims at{tap / of_cell[2] / of_cell[1], tap / of_cell[2] % of_cell[1], tap % of_cell[2]},
          through{own / taps[2] / taps[1], own / taps[2] % taps[1], own % taps[2]};
      for (int axis = 0; axis < 3; ++axis)
        for (int64_t q : {0, 1, 7}) {
          int64_t input = 0;
          expect(meets(p, axis, q * cell[size_t(axis)] + in_cell[size_t(axis)], through[size_t(axis)], input) &&
                     input == q - plan.problem.pad[size_t(axis)] + at[size_t(axis)],
                 "and the inputs that they meet");
        }
    }
    for (int64_t tap = 0; tap < volume(taps); ++tap) {
      const Dims through{tap / taps[2] / taps[1], tap / taps[2] % taps[1], tap % taps[2]};
      int64_t input = 0;
      by_definition += meets(p, 0, in_cell[0], through[0], input) && meets(p, 1, in_cell[1], through[1], input) &&
                       meets(p, 2, in_cell[2], through[2], input);
    }
    expect(met == by_definition, "and no others");
  }
}

// Every weight of a slice meets its element of the patch, once; what else fills the words counts nothing.
void check_few_inputs(const Problem& source, DataType type, Layouts layouts) {
  const auto plan = plan_few_inputs(source, type, layouts, kH200);
  if (!plan) return;
  const bool in_cells = !plan->cell_columns.empty();
  if (in_cells) check_cells(source, *plan, type, layouts.y);
  const Problem& p = plan->problem;
  const Filter& f = p.filter;
  const int64_t per_word = 4 / int64_t(size_of(type)), chunk = 4 * per_word, row = plan->row_pitch;
  const int64_t together = plan->shape == kFewInputsWgmma ? 2 * chunk : chunk;  // of a pixel's elements, in the patch
  expect(plan->slices * plan->slice_c == f.C && plan->slices * plan->slice_k == f.K, "slices share out all channels");
  expect(plan->words.size() % 8 == 0 && plan->shared_bytes() < kH200.shared_bytes, "whole steps, which fit");
  expect(int64_t(plan->box.d) * plan->box.h * plan->box.w == plan->shape.pixels() && plan->box.w % 4 == 0,
         "a box holds the pixels of a tile, four in a row");

  std::map<int64_t, int64_t> element_of;  // weight to patch element
  for (const FewInputsWord& word : plan->words)
    for (int64_t j = 0; j < per_word; ++j) {
      const uint32_t bits = per_word == 1 ? 0xffffffffu : j == 0 ? 0x0000ffffu : 0xffff0000u;
      expect((word.mask & bits) == (word.weight[j] >= 0 ? bits : 0), "a mask is what has a weight");
      if (word.weight[j] < 0) continue;
      const auto [at, fresh] = element_of.insert({word.weight[j], word.patch * per_word + j});
      expect(fresh || in_cells, "no weight twice");  // columns of cells have their own for it
    }
  const GemmGroups gemm = gemm_groups(f);
  int64_t count = 0, last = 0;
  for (int64_t tap = 0; tap < f.taps(); ++tap)
    for (int64_t c = 0; c < plan->slice_c; ++c, ++count) {
      const int64_t s = tap % f.extent[2], r = tap / f.extent[2] % f.extent[1], t = tap / f.extent[2] / f.extent[1];
      const int64_t element = (t * p.dilation[0] * plan->patch.h + r * p.dilation[1]) * row +
                              s * p.dilation[2] * plan->pixel_pitch + c / together * plan->chunk_pitch + c % together;
      last = std::max(last, element);
      if (in_cells) {
        const size_t word = size_t((tap * round_up(f.C, chunk) + c) / per_word);
        expect(plan->words[word].patch * per_word + c % per_word == element, "a weight meets its element");
        continue;
      }
      const auto found = element_of.find(tap * gemm.k * padded_channels(gemm.c, type) + c);
      expect(found != element_of.end() && found->second == element, "a weight meets its element");
    }
  expect(in_cells || int64_t(element_of.size()) == count, "and no other");
  // The patch begins at `origin`, rows by chunks a little earlier, at a chunk of x in every tile.
  const Int3 box = plan->box, patch = plan->patch;
  const int64_t base = ((box.d - 1) * p.stride[0] * patch.h + (box.h - 1) * p.stride[1]) * row +
                       (box.w - 1) * p.stride[2] * plan->pixel_pitch;
  expect(plan->origin + base + last < plan->patch_words * per_word, "all inside the patch");
  if (plan->shape.loop == FewInputsLoop::kWgmma) check_matrices(p, *plan);
  expect(plan->shape.loop != FewInputsLoop::kWgmma || layouts == Layout::kNHWC, "wgmma knows one layout");
  expect(plan->teams >= 1 && plan->teams <= (plan->shape == kFewInputsWgmma ? kFewInputsMostTeams : 1), "some teams");
  expect(plan->shifted || per_word == 1 || (plan->origin % 2 == 0 && plan->pixel_pitch * p.stride[2] % 2 == 0),
         "without a second patch no pair begins at an odd element");
  const bool planes = plan->source == PatchSource::kPlaneRuns;
  if (!planes && plan->source != PatchSource::kRuns) return;
  const int64_t in_row = planes ? 1 : f.C, stretch = planes ? plan->pixel_pitch : 1;
  for (int64_t tile = 0; tile * box.w < p.output[2]; ++tile)
    expect(((tile * box.w * p.stride[2] - p.pad[2]) * in_row - plan->lead) % chunk == 0, "rows begin at a chunk");
  const int64_t chunks = ceil_div(plan->lead + patch.w * (planes ? 1 : f.C), chunk);
  const int64_t begin = plan->origin - plan->lead * stretch,
                end = begin + (chunks * chunk - 1) * stretch + (planes ? plan->slice_c : 1);
  expect(begin >= (plan->shifted ? 1 : 0), "and are put inside the patch,");
  expect(end - row <= begin, "none into the next row,");
  expect((int64_t(patch.d) * patch.h - 1) * row + end <= plan->patch_words * per_word, "nor past the last");
}

void check_few_outputs(const Problem& p, DataType type) {
  const auto plan = plan_few_outputs(p, type, 132, half_of_shared(kH200));
  if (!plan) return;
  expect(plan->shared_bytes(p.filter.K) <= half_of_shared(kH200), "a plan of few outputs fits");
  const Dims& extent = p.filter.extent;
  expect(plan->turns * plan->turn_lines >= extent[0] * extent[1] &&
             plan->turn_lines * extent[2] * p.filter.K <= plan->columns,
         "the turns hold all taps, a turn no more than its columns");
  const int32_t box[] = {plan->box.d, plan->box.h, plan->box.w},
                patch[] = {plan->patch.d, plan->patch.h, plan->patch.w};
  const int32_t first[] = {plan->patch_first.d, plan->patch_first.h, plan->patch_first.w};
  const int32_t step[] = {plan->patch_step.d, plan->patch_step.h, plan->patch_step.w};
  const int32_t tap_step[] = {plan->tap_step.d, plan->tap_step.h, plan->tap_step.w};
  const int32_t pixel_step[] = {plan->pixel_step.d, plan->pixel_step.h, plan->pixel_step.w};
  size_t at = 0;
  for (int axis = 0; axis < 3; ++axis)
    for (int64_t q = 0; q < box[axis]; ++q) {
      const Reach reach = plan->reaches[at++];
      for (int64_t tile : {0, 1, 5}) {
        int64_t j = 0, input;
        for (int64_t t = 0; t < p.filter.extent[axis]; ++t) {
          if (!meets(p, axis, tile * box[axis] + q, t, input)) continue;
          const int64_t pixel = reach.pixel + j * pixel_step[axis];
          expect(j < reach.count && reach.tap + j * tap_step[axis] == t, "an output knows its taps");
          expect(first[axis] + tile * step[axis] + pixel == input, "and the inputs that they meet");
          expect(pixel >= 0 && pixel < patch[axis], "which lie in the patch");
          ++j;
        }
        expect(j == reach.count, "and no other taps");
      }
    }
  expect(at == plan->reaches.size(), "a reach for each coordinate of the box");
}

void check_planes(const Problem& p, DataType type) {
  const auto plan = plan_planes(p, type, 132);
  if (!plan) return;
  expect(plan->shared_bytes(p.filter.extent[2]) <= kPlaneSharedBytes, "the planes fit");
  const int64_t out_step = slide_of(p.stride[1], p.dilation[1]).out_step;
  if (plan->window_step > 0)
    expect(plan->box_h % (plan->outputs * out_step) == 0 && plan->strips * plan->outputs == plan->box_h,
           "strips make up the box");
  else
    expect(plan->box_w % plan->outputs == 0 && plan->strips == plan->box_h, "outputs make up the row");
  const auto needs = [&](int axis, int64_t box) {
    return (box - 1) * p.stride[axis] + (p.filter.extent[axis] - 1) * p.dilation[axis] + 1;
  };
  expect(plan->patch_h >= needs(1, plan->box_h) && plan->patch_pitch >= plan->lead + needs(2, plan->box_w),
         "the patch is all they read");
  const int64_t chunk = 16 / int64_t(size_of(type));
  for (int64_t first = 0; plan->chunks && first < p.output[2]; first += plan->box_w)
    expect((first * p.stride[2] - p.pad[2] - plan->lead) % chunk == 0, "its rows begin at a chunk");
}

void test_random_plans() {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    const DataType type = pick(random, {0, 1}) ? DataType::kHalf : DataType::kFloat;
    const int64_t groups = pick(random, {1, 1, 2, 8, 32}), c = pick(random, {1, 2, 3, 4, 8, 12, 16, 24, 32, 56, 64}),
                  k = pick(random, {1, 2, 3, 4, 12, 17, 64, 100});
    const Layouts layouts = random_layouts(random);
    check_few_inputs(random_problem(random, Operator::kConv, groups, c, k), type, layouts);
    check_few_inputs(random_problem(random, Operator::kConvTranspose, 1, c, pick(random, {1, 2, 3, 4, 12})), type,
                     layouts);
    check_few_outputs(random_problem(random, i % 2 ? Operator::kConv : Operator::kConvTranspose, 1, c, k), type);
    check_planes(random_problem(random, Operator::kConv, groups, 1, 1), type);
  }
}

Family family_of(Operator op, int64_t C, int64_t K, int64_t groups, Dims kernel, int64_t size, int64_t stride = 1,
                 int64_t dilation = 1, DataType type = DataType::kHalf, const Device& device = kH200,
                 Layouts layouts = Layout::kNHWC) {
  Problem p;
  p.filter = {op, C, K, groups, kernel};
  for (size_t i = 0; i < 3; ++i) {
    if (kernel[i] == 1) continue;
    p.stride[i] = stride, p.dilation[i] = dilation, p.pad[i] = (kernel[i] - 1) * dilation / 2;
  }
  p.input = {1, size, size};
  p.output = {1, op == Operator::kConv ? size / p.stride[1] : size * p.stride[1],
              op == Operator::kConv ? size / p.stride[2] : size * p.stride[2]};
  return choose_family({p, type, layouts, Precision::kTF32, {}}, device).family;
}

void test_choice() {
  constexpr Operator kC = Operator::kConv, kT = Operator::kConvTranspose;
  expect(family_of(kC, 144, 144, 144, {1, 3, 3}, 56) == Family::kDepthwise, "depthwise");
  expect(family_of(kT, 144, 144, 144, {1, 4, 4}, 56, 2) == Family::kDirect, "transposed depthwise is not");
  expect(family_of(kC, 65, 65, 65, {1, 3, 3}, 56) == Family::kDirect, "nor are channels that fill no chunks");
  expect(family_of(kC, 144, 288, 144, {1, 3, 3}, 56) == Family::kDirect, "nor two outputs a channel");
  expect(family_of(kC, 3, 64, 1, {1, 7, 7}, 224, 2) == Family::kFewInputs, "a stem has few inputs");
  expect(family_of(kC, 12, 12, 1, {1, 3, 3}, 480) == Family::kFewInputs, "odd channels, not many");
  expect(family_of(kC, 128, 128, 32, {1, 3, 3}, 56) == Family::kFewInputs, "narrow groups");
  expect(family_of(kC, 3, 64, 1, {1, 7, 7}, 224, 2, 1, DataType::kFloat, kTuring) == Family::kMatrixProduct,
         "no tensor cores for floats before sm_80");
  expect(family_of(kT, 64, 3, 1, {1, 4, 4}, 32, 2) == Family::kFewOutputs, "an image output has few outputs");
  expect(family_of(kC, 32, 32, 1, {1, 3, 3}, 256) == Family::kFewInputs, "half of a k-block");
  expect(family_of(kC, 32, 32, 1, {1, 3, 3}, 256, 1, 1, DataType::kFloat) == Family::kMatrixProduct, "not of floats");
  expect(family_of(kC, 32, 32, 1, {1, 1, 1}, 256) == Family::kMatrixProduct, "nor of a single tap");
  expect(family_of(kC, 32, 32, 1, {1, 3, 3}, 256, 2) == Family::kMatrixProduct, "nor where pixels are skipped");
  expect(family_of(kC, 32, 128, 1, {1, 3, 3}, 256) == Family::kMatrixProduct, "nor with many outputs");
  expect(family_of(kC, 64, 32, 1, {1, 3, 3}, 256) == Family::kMatrixProduct, "nor of whole k-blocks");
  expect(family_of(kC, 64, 64, 1, {1, 3, 3}, 256) == Family::kMatrixProduct, "not all of them");
  expect(family_of(kC, 56, 12, 1, {1, 1, 1}, 64) == Family::kFewInputs, "few channels of both");
  expect(family_of(kC, 100, 20, 1, {1, 1, 1}, 64) == Family::kFewOutputs, "odd channels of not too many");
  expect(family_of(kT, 56, 1, 1, {1, 9, 9}, 64, 4) == Family::kFewInputs, "cells of outputs, instead of turns");
  expect(family_of(kC, 256, 17, 1, {1, 1, 1}, 64) == Family::kMatrixProduct, "but not of many");
  expect(family_of(kC, 64, 1, 1, {1, 3, 3}, 64, 1, 12) == Family::kMatrixProduct, "unless patches overlap too much");
  expect(family_of(kC, 256, 256, 1, {1, 3, 3}, 14) == Family::kMatrixProduct, "many of both");
}

// X in one layout and Y in the other.
void test_choice_of_mixed_layouts() {
  constexpr Operator kC = Operator::kConv, kT = Operator::kConvTranspose;
  constexpr DataType kHalf = DataType::kHalf;
  const Layouts in{Layout::kNCHW, Layout::kNHWC}, out{Layout::kNHWC, Layout::kNCHW};
  const auto family = [](Operator op, int64_t C, int64_t K, int64_t groups, int64_t kernel, Layouts layouts) {
    return family_of(op, C, K, groups, {1, kernel, kernel}, 64, op == kT ? 2 : 1, 1, kHalf, kH200, layouts);
  };
  expect(family(kC, 3, 64, 1, 7, in) == Family::kFewInputs, "an image is read as planes");
  expect(family(kT, 64, 3, 1, 4, out) == Family::kFewOutputs, "and written so");
  expect(
      family(kC, 32, 32, 1, 3, in) == Family::kMatrixProduct && family(kC, 64, 32, 1, 3, out) == Family::kMatrixProduct,
      "whole steps in one layout only");
  expect(family(kC, 64, 64, 64, 3, in) == Family::kDirect && family(kC, 64, 64, 64, 3, out) == Family::kDirect,
         "nor is there a depthwise kernel");
  Filter f{kC, 256, 256, 1, {1, 3, 3}};
  const auto hopper = [&](Layouts layouts) { return hopper_takes({f, {1, 1, 1}, kHalf, layouts}, kH200); };
  expect(hopper(in) && !hopper(out), "the Hopper kernel copies X, but writes NHWC only");
}

// Of a 3x3 with these channels of X and X2 in NHWC.
bool in_place(int64_t c1, int64_t c2, DataType type = DataType::kHalf, int64_t K = 64, int64_t groups = 1,
              const Device& device = kH200) {
  Problem p;
  p.filter = {Operator::kConv, c1 + c2, K, groups, {1, 3, 3}}, p.pad = {0, 1, 1};
  p.input = p.output = {1, 64, 64}, p.x2_channels = c2;
  const ConvolutionSpec spec{p, type, Layout::kNHWC, Precision::kTF32, {}};
  return reads_x2(choose_family(spec, device), spec, device);
}

void test_what_reads_x2() {
  constexpr DataType kFloat = DataType::kFloat;
  expect(in_place(64, 64) && in_place(128, 8) && in_place(64, 200), "whole blocks of X, whole chunks of X2");
  expect(in_place(32, 64, kFloat) && in_place(96, 4, kFloat), "a block is half as many floats");
  expect(!in_place(32, 96) && !in_place(96, 64) && !in_place(16, 128, kFloat), "a block must not have some of both");
  expect(!in_place(64, 12) && !in_place(64, 61) && !in_place(60, 64), "half a chunk");
  expect(in_place(16, 16) && in_place(24, 8, DataType::kBFloat16, 32), "few inputs are copied by chunks");
  expect(!in_place(12, 20) && !in_place(4, 4), "but not by less");
  expect(!in_place(64, 64, DataType::kHalf, 64, 2) && !in_place(64, 64, kFloat, 128, 128), "groups lie across");
  expect(!in_place(64, 64, DataType::kHalf, 4), "few outputs");
  expect(!in_place(64, 64, DataType::kHalf, 64, 1, kTuring), "without tensor maps");
}

// Microseconds on an H200 (fp16, NHWC, patches times teams forced one by one): the plan takes the fastest, or one that
// is 5 % slower at most.
void test_measured_plans() {
  struct Time {
    int patches, teams;
    double us;
  };
  struct Layer {
    int64_t C, K;
    Dims kernel, size;
    std::vector<Time> times;
  };
  const Layer layers[] = {
      {32, 32, {3, 3, 3}, {96, 96, 96}, {{1, 4, 156.9}, {2, 3, 160.0}, {1, 3, 159.8}, {1, 2, 166.6}, {1, 1, 167.1}}},
      {64, 32, {3, 3, 3}, {96, 96, 96}, {{1, 2, 300.7}, {2, 1, 369.6}, {1, 1, 371.4}}},
      {32, 64, {3, 3, 3}, {48, 48, 48}, {{1, 4, 35.6}, {2, 2, 37.7}, {1, 3, 35.8}, {1, 2, 37.6}, {1, 1, 41.5}}},
      {32, 32, {1, 1, 7}, {1, 1, 51200}, {{1, 4, 8.4}, {2, 4, 8.3}, {1, 3, 9.4}, {1, 2, 10.2}, {1, 1, 13.2}}},
  };
  for (const Layer& l : layers) {
    Problem p;
    p.filter = {Operator::kConv, l.C, l.K, 1, l.kernel};
    p.N = 1, p.input = p.output = l.size;
    for (size_t i = 0; i < 3; ++i) p.pad[i] = (l.kernel[i] - 1) / 2;
    const auto plan = plan_few_inputs(p, DataType::kHalf, Layout::kNHWC, kH200);
    double least = 1e9, chosen = 1e9;
    for (const Time& t : l.times) {
      least = std::min(least, t.us);
      if (plan && t.patches == plan->patches && t.teams == plan->teams) chosen = t.us;
    }
    expect(chosen <= 1.05 * least, "the plan is as fast as any, nearly");
  }
}

// A filter is packed before shapes are known: what has the Hopper kernel's form goes nowhere else, whatever they are.
void test_forms() {
  std::mt19937 random(5);
  const auto pick = [&](std::initializer_list<int64_t> from) { return from.begin()[random() % from.size()]; };
  constexpr Device kHopper{90, 132, 228 << 10};
  int hopper = 0;
  for (int i = 0; i < 20000; ++i) {
    Problem p;
    p.filter = {random() % 2 ? Operator::kConv : Operator::kConvTranspose,
                pick({1, 3, 4, 8, 12, 16, 32, 33, 64, 256}),
                pick({1, 3, 4, 8, 12, 16, 17, 64, 256}),
                1,
                {1, pick({1, 3, 7}), pick({1, 3, 4})}};
    p.N = pick({1, 2, 32});
    for (int axis = 1; axis < 3; ++axis) {
      p.stride[axis] = pick({1, 2, 4, 16});
      p.input[axis] = pick({1, 7, 56, 224});
      const int64_t reach = p.filter.extent[axis] - 1;
      p.pad[axis] = reach / 2;
      p.output[axis] = p.filter.op == Operator::kConv
                           ? (p.input[axis] + 2 * p.pad[axis] - reach - 1) / p.stride[axis] + 1
                           : (p.input[axis] - 1) * p.stride[axis] + reach + 1 - 2 * p.pad[axis];
    }
    if (p.output[1] < 1 || p.output[2] < 1) continue;
    const Precision precision = random() % 2 ? Precision::kTF32 : Precision::kFP32;
    const ConvolutionSpec spec{p, DataType::kFloat, random_layouts(random), precision, {}};
    if (choose_form(spec.use(), kHopper) == FilterForm::kPortable) continue;
    ++hopper;
    expect(choose_family(spec, kHopper).family == Family::kMatrixProduct,
           "the Hopper kernel's form goes to another family");
  }
  expect(hopper > 1000, "some filters have the Hopper kernel's form");
}

}  // namespace

int main() {
  test_random_plans();
  test_measured_plans();
  test_forms();
  test_choice();
  test_choice_of_mixed_layouts();
  test_what_reads_x2();
  std::printf(failed ? "%d failed\n" : "passed\n", failed);
  return failed ? 1 : 0;
}

// SPDX-License-Identifier: MIT
// The order of the work, for every instruction set.
//
// Threads share out *parts*: ranges of channel groups of a convolution group, whose gradients are
// theirs alone. For each image and each *band* of output rows, the part's input is gathered into
// planes as each tap column of the kernel sees it, zeros at the edges included, so that every
// column's activations lie as the outputs do. Then column by column.
#include <cstring>

#include "kernels/conv2d_grad/grad_plan.h"

namespace l1sparse {
namespace {

// A column's activations for a band should stay in the first-level cache.
constexpr std::int64_t kColumnBytes = 16 * 1024;
// Parts that a convolution group is cut into at least, so that there is work for threads. A number
// of its own, so that results do not depend on how many threads there are.
constexpr std::int64_t kParts = 8;

struct Plan {
  bool in_place;  // the input lies as the planes would
  std::int64_t band_rows, bands, panel_rows;
  std::int64_t part_groups, parts;  // channel groups of a part; parts of a convolution group
  std::int64_t items, slots;
  std::int64_t channel_pitch, line_pitch;
  ByColumnAt kept_at;
  std::int64_t row_runs_at, row_taps_at, set_cols_at;
  std::int64_t slots_at, slot_bytes, lines_at, total_bytes;
};

bool lies_as_planes(const Conv2dProblem& conv) {
  const WeightShape& shape = conv.weight.shape;
  return shape.kernel_h * shape.kernel_w == 1 && conv.dtype == DType::float32 &&
         conv.stride_h == 1 && conv.stride_w == 1 && conv.pad_top == 0 && conv.pad_left == 0 &&
         conv.out_h == conv.in_h && conv.out_w == conv.in_w && conv.input_strides.w == 1 &&
         (conv.in_h == 1 || conv.input_strides.h == conv.in_w);
}

Status make_plan(const Conv2dGradProblem& problem, std::int64_t threads, Plan* plan) {
  const Conv2dProblem& conv = problem.conv;
  const WeightShape& shape = conv.weight.shape;
  const GroupGrid& grid = conv.weight.grid;
  plan->in_place = lies_as_planes(conv);
  const std::int64_t row_bytes = checked_mul(checked_mul(grid.channels, conv.out_w), kFloatBytes);
  plan->band_rows = larger(smaller(kColumnBytes / row_bytes, conv.out_h), 1);
  plan->bands = ceil_div(conv.out_h, plan->band_rows);
  plan->band_rows = ceil_div(conv.out_h, plan->bands);
  plan->panel_rows =
      axis_extent_bound(plan->band_rows, shape.kernel_h, conv.dilation_h, conv.stride_h);
  plan->channel_pitch =
      plan->in_place ? conv.input_strides.c : plane_pitch(plan->panel_rows, conv.out_w);
  const std::int64_t channel_bytes =
      checked_mul(checked_mul(shape.kernel_w, plan->channel_pitch), kFloatBytes);
  const std::int64_t group_bytes = checked_mul(channel_bytes, grid.channels);
  const std::int64_t fitting = plan->in_place ? grid.channel_groups : kGradBandBytes / group_bytes;
  plan->part_groups = larger(smaller(fitting, ceil_div(grid.channel_groups, kParts)), 1);
  plan->parts = ceil_div(grid.channel_groups, plan->part_groups);
  plan->items = checked_mul(plan->parts, conv.groups);
  plan->slots = smaller(threads, plan->items);

  const std::int64_t channels =
      smaller(checked_mul(plan->part_groups, grid.channels), shape.in_channels);
  plan->line_pitch = plan->in_place ? 0 : round_up(conv.in_w, 16);
  plan->lines_at = plan->in_place ? 0 : round_up(checked_mul(channels, channel_bytes), kAlignment);
  plan->slot_bytes = round_up(
      checked_add(plan->lines_at, checked_mul(plan->line_pitch, kPlaneLines * kFloatBytes)),
      kAlignment);
  Reserved reserved;
  plan->kept_at = reserve_by_column(conv.weight, &reserved);
  plan->row_runs_at = reserved.reserve(shape.kernel_h, sizeof(AxisRun));
  plan->row_taps_at = reserved.reserve(shape.kernel_h, sizeof(std::int64_t));
  plan->set_cols_at = reserved.reserve(shape.kernel_w, sizeof(std::int64_t));
  plan->slots_at = reserved.reserve(plan->slots, plan->slot_bytes);
  plan->total_bytes = reserved.bytes();
  if (plan->total_bytes == kTooLarge || plan->items == kTooLarge) {
    return {Code::too_large, kTooLarge, 0};
  }
  return {};
}

struct Run {
  const Conv2dProblem& conv;
  const float* grad;
  const void* input;
  float* values_grad;
  const Conv2dKernels& planes;
  const Conv2dGradKernels& kernels;
  Plan plan;
  ByColumn kept;
  PanelAxis rows;
  const std::int64_t* row_taps;
  const std::int64_t* set_cols;
  char* workspace;
  const char** ran;
};

// A piece of work for one image and band.
struct Piece {
  std::int64_t group, first_channel_group, end_channel_group;
  std::int64_t image, out_y, rows;
};

const char* input_of(const Run& run, const Piece& piece) {
  const Conv2dProblem& conv = run.conv;
  const std::int64_t channel = piece.group * conv.weight.shape.in_channels +
                               piece.first_channel_group * conv.weight.grid.channels;
  const std::int64_t position = piece.image * conv.input_strides.n + channel * conv.input_strides.c;
  return static_cast<const char*>(run.input) + position * size_of(conv.dtype);
}

std::int64_t channels_of_piece(const Run& run, const Piece& piece) {
  const PackedView& weight = run.conv.weight;
  return smaller(piece.end_channel_group * weight.grid.channels, weight.shape.in_channels) -
         piece.first_channel_group * weight.grid.channels;
}

void gather(const Run& run, const Piece& piece, char* slot) {
  const Conv2dProblem& conv = run.conv;
  PlanesJob job;
  job.input = input_of(run, piece);
  job.channel_stride = conv.input_strides.c;
  job.row_stride = conv.input_strides.h;
  job.col_stride = conv.input_strides.w;
  job.channels = channels_of_piece(run, piece);
  job.height = conv.in_h;
  job.width = conv.in_w;
  job.first_row = piece.out_y * conv.stride_h - conv.pad_top;
  job.first_col = 0;
  job.rows = run.rows;
  job.cols = job.row_pitch = conv.out_w;
  job.col_step = conv.stride_w;
  job.set_cols = run.set_cols;
  job.sets = conv.weight.shape.kernel_w;
  job.plane_pitch = run.plan.channel_pitch;
  job.planes = reinterpret_cast<float*>(slot);
  job.lines = reinterpret_cast<float*>(slot + run.plan.lines_at);
  job.line_pitch = run.plan.line_pitch;
  run.planes.gather_planes[static_cast<int>(conv.dtype)](job);
}

const char* run_piece(const Run& run, const Piece& piece, char* slot) {
  const Conv2dProblem& conv = run.conv;
  const PackedView& weight = conv.weight;
  const std::int64_t outputs = conv.out_h * conv.out_w;
  if (!run.plan.in_place) gather(run, piece, slot);
  const float* planes = run.plan.in_place ? reinterpret_cast<const float*>(input_of(run, piece)) +
                                                piece.out_y * conv.out_w
                                          : reinterpret_cast<const float*>(slot);
  WeightGradJob job;
  job.channel_pitch = run.plan.channel_pitch;
  job.filters = filters_of(conv, piece.group);
  job.grad = run.grad + (piece.image * weight.shape.out_channels + job.filters.first) * outputs +
             piece.out_y * conv.out_w;
  job.filter_pitch = outputs;
  job.pixels = piece.rows * conv.out_w;
  job.kept = run.kept;
  job.group_filters = weight.grid.filters;
  job.group_channels = weight.grid.channels;
  job.values_grad = run.values_grad;
  job.ran = nullptr;
  const std::int64_t channels = channels_of_piece(run, piece);
  const WeightShape& shape = weight.shape;
  for (std::int64_t group = piece.first_channel_group; group < piece.end_channel_group; ++group) {
    const std::int64_t channel = (group - piece.first_channel_group) * weight.grid.channels;
    job.channels = channels_of(weight, group);
    for (std::int64_t y = 0; y < shape.kernel_h; ++y) {
      for (std::int64_t x = 0; x < shape.kernel_w; ++x) {
        job.column = (group * shape.kernel_h + y) * shape.kernel_w + x;
        job.input = planes + (x * channels + channel) * job.channel_pitch +
                    (run.plan.in_place ? 0 : run.row_taps[y] * conv.out_w);
        run.kernels.weight_grad(job);
      }
    }
  }
  return job.ran;
}

void run_slot(void* context, std::int64_t slot) {
  const Run& run = *static_cast<const Run*>(context);
  const Plan& plan = run.plan;
  char* memory = run.workspace + plan.slots_at + slot * plan.slot_bytes;
  const Share share = share_of(plan.items, plan.slots, slot);
  const char* ran = nullptr;
  for (std::int64_t item = share.begin; item < share.end; ++item) {
    Piece piece;
    piece.group = item / plan.parts;
    piece.first_channel_group = item % plan.parts * plan.part_groups;
    piece.end_channel_group =
        smaller(piece.first_channel_group + plan.part_groups, run.conv.weight.grid.channel_groups);
    for (piece.image = 0; piece.image < run.conv.batch; ++piece.image) {
      for (piece.out_y = 0; piece.out_y < run.conv.out_h; piece.out_y += plan.band_rows) {
        piece.rows = smaller(plan.band_rows, run.conv.out_h - piece.out_y);
        ran = run_piece(run, piece, memory);
      }
    }
  }
  if (slot == 0 && run.ran != nullptr) *run.ran = ran;
}

}  // namespace

Status weight_grad_workspace(const Conv2dGradProblem& problem, Isa, std::int64_t threads,
                             std::int64_t* bytes) {
  if (Status status = check_grad(problem); !status.ok()) return status;
  Plan plan;
  if (Status status = make_plan(problem, threads, &plan); !status.ok()) return status;
  *bytes = plan.total_bytes;
  return {};
}

Status weight_grad(const Conv2dGradProblem& problem, const float* grad, const void* input,
                   float* values_grad, Isa isa, const Parallel& parallel, void* workspace,
                   const char** ran) {
  if (Status status = check_grad(problem); !status.ok()) return status;
  Plan plan;
  if (Status status = make_plan(problem, parallel.threads, &plan); !status.ok()) return status;
  const Conv2dProblem& conv = problem.conv;
  const WeightShape& shape = conv.weight.shape;
  const std::int64_t group_size = conv.weight.grid.filters * conv.weight.grid.channels;
  if (conv.weight.kept_groups == 0) return {};
  std::memset(values_grad, 0,
              static_cast<std::size_t>(conv.weight.kept_groups * group_size) * sizeof(float));
  if (conv.batch == 0) return {};
  auto* const base = static_cast<char*>(workspace);
  auto* const row_taps = reinterpret_cast<std::int64_t*>(base + plan.row_taps_at);
  auto* const set_cols = reinterpret_cast<std::int64_t*>(base + plan.set_cols_at);
  const PanelAxis rows = plan_axis(plan.band_rows, conv.stride_h, shape.kernel_h, conv.dilation_h,
                                   reinterpret_cast<AxisRun*>(base + plan.row_runs_at), row_taps);
  for (std::int64_t x = 0; x < shape.kernel_w; ++x) {
    set_cols[x] = x * conv.dilation_w - conv.pad_left;
  }
  Run run{conv,
          grad,
          input,
          values_grad,
          kernels_for(isa),
          grad_kernels_for(isa),
          plan,
          sort_by_column(conv.weight, plan.kept_at, base),
          rows,
          row_taps,
          set_cols,
          base,
          ran};
  parallel.for_each(plan.slots, run_slot, &run);
  return {};
}

}  // namespace l1sparse

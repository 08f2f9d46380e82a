// SPDX-License-Identifier: MIT
// The order of the work, for every instruction set.
//
// Input pixels whose coordinates (plus padding) leave the same remainders when divided by the
// strides form a *phase*: all of them meet the same taps, and neighbours among them read
// neighbouring gradients. So each phase is a convolution of the gradient with stride 1. It is cut
// into *bands* of rows; for each channel group and each tile of a band the sums of the group's
// channels are built up in registers. Where a phase's pixels lie as the gradients do, these are
// read in place; otherwise they are gathered into planes as each tap column sees them.
#include <cstring>

#include "base/half.h"
#include "kernels/conv2d_grad/grad_plan.h"

namespace l1sparse {
namespace {

// Taps whose bits a thread keeps on its stack.
constexpr std::int64_t kMaxTapsWithBits = 121;

std::int64_t greatest_divisor(std::int64_t a, std::int64_t b) {
  while (b != 0) {
    const std::int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// One axis of a phase: pixels first, first + stride, ...; taps first_tap, first_tap + tap_step, ...
// Pixel t reads gradient t + shift of the last tap, t + shift + shift_step of the one before, ...
struct PhaseAxis {
  std::int64_t first, count;
  std::int64_t first_tap, tap_step, taps;
  std::int64_t shift, shift_step;

  std::int64_t tap(std::int64_t i) const { return first_tap + (taps - 1 - i) * tap_step; }
};

struct AxisSizes {
  std::int64_t size, kernel, stride, pad, dilation;

  std::int64_t tap_step() const { return stride / greatest_divisor(stride, dilation); }
  // Phases that a tap reaches; pixels of all others have no gradient.
  std::int64_t phases() const { return smaller(kernel, tap_step()); }

  PhaseAxis phase(std::int64_t first_tap) const {
    PhaseAxis axis;
    axis.first_tap = first_tap;
    axis.tap_step = tap_step();
    axis.taps = ceil_div(kernel - first_tap, axis.tap_step);
    const std::int64_t rest = (first_tap * dilation - pad) % stride;
    axis.first = rest < 0 ? rest + stride : rest;
    axis.count = axis.first < size ? ceil_div(size - axis.first, stride) : 0;
    axis.shift = (axis.first + pad - axis.tap(0) * dilation) / stride;
    axis.shift_step = dilation / greatest_divisor(stride, dilation);
    return axis;
  }
};

struct Phase {
  PhaseAxis rows, cols;
};

AxisSizes row_sizes(const Conv2dProblem& conv) {
  return {conv.in_h, conv.weight.shape.kernel_h, conv.stride_h, conv.pad_top, conv.dilation_h};
}

AxisSizes col_sizes(const Conv2dProblem& conv) {
  return {conv.in_w, conv.weight.shape.kernel_w, conv.stride_w, conv.pad_left, conv.dilation_w};
}

struct Plan {
  bool in_place;
  std::int64_t band_rows, bands;
  std::int64_t part_groups, parts;  // channel groups of a part; parts of a convolution group
  std::int64_t items, slots;
  std::int64_t filters;  // of a convolution group
  std::int64_t filter_pitch, line_pitch, sums_pitch;
  // From the end of what all phases share on.
  std::int64_t taps_at, row_runs_at, row_taps_at, set_cols_at;
  std::int64_t slots_at, slot_bytes, lines_at, sums_at, total_bytes;
};

bool lies_as_pixels(const Conv2dGradProblem& problem, const Phase& phase,
                    const Conv2dKernels& kernels) {
  const Conv2dProblem& conv = problem.conv;
  return kernels.masks_are_cheap[static_cast<int>(conv.dtype)] &&
         phase.rows.taps * phase.cols.taps <= kMaxTapsWithBits && phase.cols.count == conv.out_w &&
         problem.grad_strides.w == 1 && (conv.out_h == 1 || problem.grad_strides.h == conv.out_w);
}

Plan make_plan(const Conv2dGradProblem& problem, const Phase& phase, Isa isa, std::int64_t threads,
               Reserved reserved) {
  const Conv2dProblem& conv = problem.conv;
  const GroupGrid& grid = conv.weight.grid;
  const Conv2dGradKernels& kernels = grad_kernels_for(isa);
  const std::int64_t widest = kernels.tiles[0].pixels;
  Plan plan;
  plan.in_place = lies_as_pixels(problem, phase, kernels_for(isa));
  plan.filters = conv.weight.shape.out_channels / conv.groups;
  const std::int64_t sets = plan.in_place ? 1 : phase.cols.taps;
  const auto panel_pitch = [&](std::int64_t rows) {
    const std::int64_t extent = axis_extent_bound(rows, phase.rows.taps, phase.rows.shift_step, 1);
    return plane_pitch(extent, phase.cols.count);
  };
  const auto band_floats = [&](std::int64_t rows) {
    return checked_mul(checked_mul(plan.filters, sets), panel_pitch(rows));
  };
  plan.band_rows = 1;
  while (plan.band_rows < phase.rows.count &&
         band_floats(plan.band_rows + 1) <= kGradBandBytes / kFloatBytes) {
    ++plan.band_rows;
  }
  plan.bands = ceil_div(phase.rows.count, plan.band_rows);
  plan.band_rows = ceil_div(phase.rows.count, plan.bands);
  plan.bands = ceil_div(phase.rows.count, plan.band_rows);
  const std::int64_t images = checked_mul(conv.batch, conv.groups);
  const std::int64_t bands = checked_mul(images, plan.bands);
  plan.parts = smaller(ceil_div(threads, larger(bands, 1)), grid.channel_groups);
  plan.part_groups = ceil_div(grid.channel_groups, plan.parts);
  plan.parts = ceil_div(grid.channel_groups, plan.part_groups);
  plan.items = checked_mul(bands, plan.parts);
  plan.slots = smaller(threads, plan.items);

  plan.filter_pitch = plan.in_place ? problem.grad_strides.c : panel_pitch(plan.band_rows);
  plan.line_pitch = plan.in_place ? 0 : round_up(conv.out_w, 16);
  plan.sums_pitch = plane_pitch(1, widest);
  // A tile may read up to its width past the last pixel.
  const std::int64_t planes = plan.in_place ? 0 : checked_add(band_floats(plan.band_rows), widest);
  plan.lines_at = round_up(checked_mul(planes, kFloatBytes), kAlignment);
  plan.sums_at =
      checked_add(plan.lines_at, checked_mul(plan.line_pitch, kPlaneLines * kFloatBytes));
  plan.slot_bytes =
      round_up(checked_add(plan.sums_at,
                           checked_mul(checked_mul(grid.channels, kFloatBytes), plan.sums_pitch)),
               kAlignment);
  const std::int64_t taps = checked_mul(phase.rows.taps, phase.cols.taps);
  plan.taps_at = reserved.reserve(taps, sizeof(GradTap));
  plan.row_runs_at = reserved.reserve(phase.rows.taps, sizeof(AxisRun));
  plan.row_taps_at = reserved.reserve(phase.rows.taps, sizeof(std::int64_t));
  plan.set_cols_at = reserved.reserve(phase.cols.taps, sizeof(std::int64_t));
  plan.slots_at = reserved.reserve(plan.slots, plan.slot_bytes);
  plan.total_bytes = reserved.bytes();
  return plan;
}

// Calls visit(phase) for every phase that has pixels and taps.
template <class Visit>
void for_each_phase(const Conv2dProblem& conv, Visit visit) {
  const AxisSizes rows = row_sizes(conv), cols = col_sizes(conv);
  for (std::int64_t y = 0; y < rows.phases(); ++y) {
    for (std::int64_t x = 0; x < cols.phases(); ++x) {
      const Phase phase{rows.phase(y), cols.phase(x)};
      if (phase.rows.count > 0 && phase.cols.count > 0) visit(phase);
    }
  }
}

struct Run {
  const Conv2dGradProblem& problem;
  const char* grad;
  char* input_grad;
  const Conv2dKernels& planes;
  const Conv2dGradKernels& kernels;
  Phase phase;
  Plan plan;
  ByColumn kept;
  PanelAxis rows;
  const GradTap* taps;
  const std::int64_t* set_cols;
  char* workspace;
  const char** ran;
};

// A piece of work: a band of a phase's rows of one image and convolution group.
struct Piece {
  std::int64_t image, group, part;
  std::int64_t first_row, rows;
};

const char* grad_of(const Run& run, const Piece& piece) {
  const Conv2dGradProblem& problem = run.problem;
  const std::int64_t position = piece.image * problem.grad_strides.n +
                                piece.group * run.plan.filters * problem.grad_strides.c;
  return run.grad + position * size_of(problem.conv.dtype);
}

void gather(const Run& run, const Piece& piece, char* slot) {
  const Conv2dProblem& conv = run.problem.conv;
  PlanesJob job;
  job.input = grad_of(run, piece);
  job.channel_stride = run.problem.grad_strides.c;
  job.row_stride = run.problem.grad_strides.h;
  job.col_stride = run.problem.grad_strides.w;
  job.channels = run.plan.filters;
  job.height = conv.out_h;
  job.width = conv.out_w;
  job.first_row = piece.first_row + run.phase.rows.shift;
  job.first_col = 0;
  job.rows = run.rows;
  job.cols = job.row_pitch = run.phase.cols.count;
  job.col_step = 1;
  job.set_cols = run.set_cols;
  job.sets = run.phase.cols.taps;
  job.plane_pitch = run.plan.filter_pitch;
  job.planes = reinterpret_cast<float*>(slot);
  job.lines = reinterpret_cast<float*>(slot + run.plan.lines_at);
  job.line_pitch = run.plan.line_pitch;
  run.planes.gather_planes[static_cast<int>(conv.dtype)](job);
}

// Bits `from` to `to` - 1; 0 <= from <= to <= 64.
std::uint64_t bits_between(std::int64_t from, std::int64_t to) {
  if (from >= to) return 0;
  return ~std::uint64_t{0} >> (64 - (to - from)) << from;
}

// For each tap, which of the phase's pixels from `first` on read inside the gradient.
void find_inside(const Run& run, std::int64_t first, std::int64_t count, std::uint64_t* inside) {
  const Conv2dProblem& conv = run.problem.conv;
  const PhaseAxis &rows = run.phase.rows, &cols = run.phase.cols;
  for (std::int64_t tap = 0; tap < rows.taps * cols.taps; ++tap) inside[tap] = 0;
  std::int64_t row = first / cols.count, col = first % cols.count;
  for (std::int64_t at = 0; at < count; ++row, col = 0) {  // the tile's part of a row
    const std::int64_t end = smaller(at + cols.count - col, count);
    for (std::int64_t x = 0; x < cols.taps; ++x) {
      const std::int64_t read = col + cols.shift + x * cols.shift_step;
      const std::int64_t low = smaller(at + larger(-read, 0), end);
      const std::int64_t high = smaller(at + larger(conv.out_w - read, 0), end);
      const std::uint64_t bits = bits_between(low, high);
      for (std::int64_t y = 0; y < rows.taps; ++y) {
        const std::int64_t read_row = row + rows.shift + y * rows.shift_step;
        if (read_row >= 0 && read_row < conv.out_h) inside[y * cols.taps + x] |= bits;
      }
    }
    at = end;
  }
}

// One float for each pixel, to pixels that do not lie side by side.
void scatter(const FinishJob& job, DType dtype) {
  for (std::int64_t channel = 0; channel < job.filters; ++channel) {
    for (std::int64_t col = 0; col < job.cols; ++col) {
      const float sum = job.sums[channel * job.sums_pitch + col];
      const std::int64_t to = channel * job.filter_stride + col * job.col_stride;
      switch (dtype) {
        case DType::float32:
          static_cast<float*>(job.output)[to] = sum;
          break;
        case DType::bfloat16:
          from_float(sum, static_cast<BFloat16*>(job.output) + to);
          break;
        case DType::float16:
          from_float(sum, static_cast<Float16*>(job.output) + to);
          break;
      }
    }
  }
}

// The sums of a tile into the gradient, row by row where its pixels don't lie in one.
void write_tile(const Run& run, const Piece& piece, std::int64_t channel, std::int64_t channels,
                std::int64_t first, std::int64_t count, const float* sums) {
  const Conv2dProblem& conv = run.problem.conv;
  const PhaseAxis &rows = run.phase.rows, &cols = run.phase.cols;
  const std::int64_t all = conv.in_channels, pixels = conv.in_h * conv.in_w;
  const Strides4 strides = conv.channels_last ? Strides4{pixels * all, 1, conv.in_w * all, all}
                                              : Strides4{pixels * all, pixels, conv.in_w, 1};
  const bool in_one_row = conv.stride_h == 1 && conv.stride_w == 1;
  for (std::int64_t at = 0; at < count;) {
    const std::int64_t row = (first + at) / cols.count, col = (first + at) % cols.count;
    FinishJob job{};
    job.cols = in_one_row ? count - at : smaller(count - at, cols.count - col);
    job.tile_cols = job.cols;
    job.rows = 1;
    job.sums = sums + at;
    job.sums_pitch = run.plan.sums_pitch;
    job.filters = channels;
    job.filter_stride = strides.c;
    job.row_stride = strides.h;
    job.col_stride = conv.stride_w * strides.w;
    const std::int64_t position = piece.image * strides.n + channel * strides.c +
                                  (rows.first + row * conv.stride_h) * strides.h +
                                  (cols.first + col * conv.stride_w) * strides.w;
    job.output = run.input_grad + position * size_of(conv.dtype);
    if (strides.c == 1 || job.col_stride == 1) {
      run.planes.finish[static_cast<int>(conv.dtype)](job);
    } else {
      scatter(job, conv.dtype);
    }
    at += job.cols;
  }
}

// The widest tile that has work for all its lanes, or the narrowest that holds what is left.
const GradTile& tile_for(const Conv2dGradKernels& kernels, std::int64_t pixels) {
  int fitting = 0;
  for (int i = 0; i < kernels.tile_count; ++i) {
    if (kernels.tiles[i].pixels >= pixels) fitting = i;
  }
  return kernels.tiles[fitting];
}

const char* run_piece(const Run& run, const Piece& piece, char* slot) {
  const Conv2dProblem& conv = run.problem.conv;
  const PackedView& weight = conv.weight;
  const Plan& plan = run.plan;
  const std::int64_t pixels = piece.rows * run.phase.cols.count;
  if (!plan.in_place) gather(run, piece, slot);
  std::uint64_t inside[kMaxTapsWithBits];
  InputGradJob job;
  job.filter_pitch = plan.filter_pitch;
  job.taps = run.taps;
  job.tap_count = run.phase.rows.taps * run.phase.cols.taps;
  job.inside = plan.in_place ? inside : nullptr;
  job.kept = run.kept;
  job.values = weight.values;
  job.filters = filters_of(conv, piece.group);
  job.group_filters = weight.grid.filters;
  job.group_channels = weight.grid.channels;
  job.sums_pitch = plan.sums_pitch;
  job.sums = reinterpret_cast<float*>(slot + plan.sums_at);
  job.ran = nullptr;
  const int dtype = static_cast<int>(plan.in_place ? conv.dtype : DType::float32);
  const std::int64_t first = piece.part * plan.part_groups;
  const std::int64_t end = smaller(first + plan.part_groups, weight.grid.channel_groups);
  for (std::int64_t group = first; group < end; ++group) {
    job.kept.offsets = run.kept.offsets + group * weight.grid.taps;
    job.channels = channels_of(weight, group);
    const std::int64_t channel =
        piece.group * weight.shape.in_channels + group * weight.grid.channels;
    for (std::int64_t at = 0; at < pixels;) {
      const GradTile& tile = tile_for(run.kernels, pixels - at);
      const std::int64_t count = smaller(tile.pixels, pixels - at);
      const std::int64_t position = piece.first_row * run.phase.cols.count + at;
      if (plan.in_place) find_inside(run, position, count, inside);
      job.tile = plan.in_place ? grad_of(run, piece) + position * size_of(conv.dtype)
                               : slot + at * kFloatBytes;
      tile.accumulate[dtype](job);
      write_tile(run, piece, channel, job.channels, position, count, job.sums);
      at += count;
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
    std::int64_t index = item;
    piece.part = index % plan.parts;
    index /= plan.parts;
    piece.first_row = index % plan.bands * plan.band_rows;
    index /= plan.bands;
    piece.group = index % run.problem.conv.groups;
    piece.image = index / run.problem.conv.groups;
    piece.rows = smaller(plan.band_rows, run.phase.rows.count - piece.first_row);
    ran = run_piece(run, piece, memory);
  }
  if (slot == 0 && run.ran != nullptr) *run.ran = ran;
}

// Fills the tables of a phase, and shares it out.
void run_phase(Run& run, const Parallel& parallel) {
  const Phase& phase = run.phase;
  const Plan& plan = run.plan;
  auto* const taps = reinterpret_cast<GradTap*>(run.workspace + plan.taps_at);
  auto* const row_taps = reinterpret_cast<std::int64_t*>(run.workspace + plan.row_taps_at);
  auto* const set_cols = reinterpret_cast<std::int64_t*>(run.workspace + plan.set_cols_at);
  run.rows = plan_axis(plan.band_rows, 1, phase.rows.taps, phase.rows.shift_step,
                       reinterpret_cast<AxisRun*>(run.workspace + plan.row_runs_at), row_taps);
  for (std::int64_t x = 0; x < phase.cols.taps; ++x) {
    set_cols[x] = phase.cols.shift + x * phase.cols.shift_step;
    for (std::int64_t y = 0; y < phase.rows.taps; ++y) {
      const std::int64_t shift_y = phase.rows.shift + y * phase.rows.shift_step;
      GradTap& tap = taps[y * phase.cols.taps + x];
      tap.column = phase.rows.tap(y) * run.problem.conv.weight.shape.kernel_w + phase.cols.tap(x);
      tap.offset = plan.in_place
                       ? shift_y * run.problem.conv.out_w + set_cols[x]
                       : x * plan.filters * plan.filter_pitch + row_taps[y] * phase.cols.count;
    }
  }
  run.taps = taps;
  run.set_cols = set_cols;
  parallel.for_each(plan.slots, run_slot, &run);
}

}  // namespace

Status input_grad_workspace(const Conv2dGradProblem& problem, Isa isa, std::int64_t threads,
                            std::int64_t* bytes) {
  if (Status status = check_grad(problem); !status.ok()) return status;
  Reserved shared;
  reserve_by_column(problem.conv.weight, &shared);
  std::int64_t most = shared.bytes();
  bool too_large = most == kTooLarge;
  for_each_phase(problem.conv, [&](const Phase& phase) {
    const Plan plan = make_plan(problem, phase, isa, threads, shared);
    too_large = too_large || plan.total_bytes == kTooLarge || plan.items == kTooLarge;
    most = larger(most, plan.total_bytes);
  });
  if (too_large) return {Code::too_large, kTooLarge, 0};
  *bytes = most;
  return {};
}

Status input_grad(const Conv2dGradProblem& problem, const void* grad, void* input_grad, Isa isa,
                  const Parallel& parallel, void* workspace, const char** ran) {
  std::int64_t bytes = 0;
  if (Status status = input_grad_workspace(problem, isa, parallel.threads, &bytes); !status.ok()) {
    return status;
  }
  const Conv2dProblem& conv = problem.conv;
  const std::int64_t total = conv.batch * conv.in_channels * conv.in_h * conv.in_w;
  if (total == 0) return {};
  const AxisSizes rows = row_sizes(conv), cols = col_sizes(conv);
  if (rows.phases() < conv.stride_h || cols.phases() < conv.stride_w) {
    std::memset(input_grad, 0, static_cast<std::size_t>(total * size_of(conv.dtype)));
  }
  auto* const base = static_cast<char*>(workspace);
  Reserved shared;
  const ByColumnAt kept_at = reserve_by_column(conv.weight, &shared);
  const ByColumn kept = sort_by_column(conv.weight, kept_at, base);
  for_each_phase(conv, [&](const Phase& phase) {
    Run run{problem,
            static_cast<const char*>(grad),
            static_cast<char*>(input_grad),
            kernels_for(isa),
            grad_kernels_for(isa),
            phase,
            make_plan(problem, phase, isa, parallel.threads, shared),
            kept,
            {},
            nullptr,
            nullptr,
            base,
            ran};
    run_phase(run, parallel);
  });
  return {};
}

}  // namespace l1sparse

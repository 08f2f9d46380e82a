// SPDX-License-Identifier: MIT
// The C interface on arbitrary bytes: packed weights that are opened, unpacked and convolved with,
// with options, sizes and threads that the bytes say. Whatever they say, a call gives a status and
// touches no memory that is not its own; what the query accepts is computed.
//
// `make fuzz-capi` gives it to libFuzzer. Built as the other tests are it runs the files in corpus.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "format/packed.h"
#include "include/l1sparse.h"
#include "memory.h"

using l1sparse::AlignedBytes;

namespace {

constexpr std::int64_t kMostBytes = 8 << 20;  // of any array
constexpr std::int64_t kMostWork = 1 << 22;   // outputs times rows and kept groups of a filter

void expect(bool condition, const char* text) {
  if (condition) return;
  std::fprintf(stderr, "fuzz_capi: %s\n", text);
  std::abort();
}

// Takes numbers off the input's front; zeros where it is over.
class Source {
 public:
  Source(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  template <class T>
  T take() {
    T value{};
    const std::size_t size = std::min(sizeof(T), left_);
    if (size > 0) std::memcpy(&value, data_, size);
    data_ += size;
    left_ -= size;
    return value;
  }
  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + take<std::uint8_t>() % (most - least + 1);
  }
  std::vector<std::uint8_t> rest() const { return {data_, data_ + left_}; }
  std::size_t left() const { return left_; }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

// Every status has a text that fits, of one line.
bool ok(const l1sparse_status& status) {
  char text[160];
  std::memset(text, '?', sizeof(text));
  l1sparse_status_text(status, text, sizeof(text));
  const auto* end = static_cast<const char*>(std::memchr(text, 0, sizeof(text)));
  expect(end != nullptr, "a text does not end");
  expect(std::find(static_cast<const char*>(text), end, '\n') == end, "a text has two lines");
  return status.code == L1SPARSE_OK;
}

// ---- weights ----------------------------------------------------------------------------------

std::vector<std::uint8_t> packed_of(Source& source) {
  l1sparse_shape shape{};
  shape.out_channels = source.between(1, 40);
  shape.in_channels = source.between(1, 70);
  shape.kernel_h = source.between(1, 4);
  shape.kernel_w = source.between(1, 4);
  shape.group_filters = source.between(1, 17);
  shape.group_channels = source.between(1, 40);
  const std::int32_t strategy = source.take<std::uint8_t>() % 3;
  const std::uint8_t density = source.take<std::uint8_t>();
  std::int64_t grid[4];
  expect(ok(l1sparse_grid(&shape, grid)), "a small shape has no grid");
  const std::int64_t weights =
      shape.out_channels * shape.in_channels * shape.kernel_h * shape.kernel_w;
  std::vector<float> dense(static_cast<std::size_t>(weights));
  for (std::size_t i = 0; i < dense.size(); ++i) dense[i] = static_cast<float>(i % 7) - 3.0f;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(grid[0] * grid[1] * grid[2] * grid[3]));
  std::uint32_t state = source.take<std::uint16_t>();
  for (std::uint8_t& keep : mask) {
    state = state * 1664525u + 1013904223u;
    keep = (state >> 24) < density;
  }
  std::vector<float> norms(mask.size());
  expect(ok(l1sparse_group_l1_norm(&shape, dense.data(), nullptr, norms.data())), "no norms");
  std::size_t bytes = 0;
  expect(ok(l1sparse_pack_bytes(&shape, mask.data(), strategy, &bytes)), "no size to pack");
  AlignedBytes packed(static_cast<std::int64_t>(bytes));
  expect(ok(l1sparse_pack(&shape, dense.data(), mask.data(), strategy, packed.data(), bytes)),
         "it does not pack");
  return packed.content();
}

// Overwrites up to three words, or cuts the end off.
void damage(Source& source, std::vector<std::uint8_t>& bytes) {
  for (std::int64_t left = source.between(0, 3); left > 0; --left) {
    const std::size_t at = source.take<std::uint16_t>();
    const auto value = source.take<std::uint32_t>();
    const auto kind = source.take<std::uint8_t>();
    if (kind == 0) bytes.resize(std::min(at, bytes.size()));
    const std::size_t from = (kind & 1) != 0 ? at % 128 / 4 * 4 : at;
    const std::size_t width = (kind & 2) != 0 ? 4 : 1;
    if (from + width <= bytes.size()) std::memcpy(bytes.data() + from, &value, width);
  }
}

// Makes the buffer's own size and checksum right, so that what else is wrong is what counts.
void fix_up(std::vector<std::uint8_t>& bytes) {
  using l1sparse::PackedHeader;
  if (bytes.size() < sizeof(PackedHeader)) return;
  const std::uint64_t total = bytes.size();
  std::memcpy(bytes.data() + offsetof(PackedHeader, total_bytes), &total, sizeof(total));
  const std::uint64_t sum =
      l1sparse::packed_checksum(bytes.data(), static_cast<std::int64_t>(total));
  std::memcpy(bytes.data() + offsetof(PackedHeader, checksum), &sum, sizeof(sum));
}

// ---- convolution --------------------------------------------------------------------------------

l1sparse_conv2d_options options_of(Source& source, const l1sparse_shape& shape) {
  l1sparse_conv2d_options options;
  const std::int64_t groups = source.between(1, 4);
  const std::int64_t batch = source.between(0, 2);
  const std::int64_t height = source.between(1, 24), width = source.between(1, 24);
  l1sparse_conv2d_init(&options, batch, shape.in_channels * groups, height, width);
  options.groups = groups;
  options.stride_h = source.between(1, 3);
  options.stride_w = source.between(1, 3);
  options.pad_top = source.between(0, 5);
  options.pad_left = source.between(0, 5);
  options.pad_bottom = source.between(0, 5);
  options.pad_right = source.between(0, 5);
  options.dilation_h = source.between(1, 3);
  options.dilation_w = source.between(1, 3);
  options.dtype = static_cast<std::int32_t>(source.between(0, 2));
  options.format = static_cast<std::int32_t>(source.between(0, 1));
  options.activation = static_cast<std::int32_t>(source.between(0, 3));
  options.low = source.take<float>();
  options.high = source.take<float>();
  return options;
}

// One of the numbers becomes any number.
void spoil(Source& source, l1sparse_conv2d_options& options) {
  std::int64_t* const numbers[] = {&options.batch,     &options.in_channels, &options.in_h,
                                   &options.in_w,      &options.stride_h,    &options.stride_w,
                                   &options.pad_top,   &options.pad_left,    &options.pad_bottom,
                                   &options.pad_right, &options.dilation_h,  &options.dilation_w,
                                   &options.groups};
  std::int32_t* const choices[] = {&options.dtype, &options.format, &options.activation};
  const auto which = source.take<std::uint8_t>();
  const auto value = source.take<std::int64_t>();
  if (which < 200) {
    *numbers[which % std::size(numbers)] = value;
  } else {
    *choices[which % std::size(choices)] = static_cast<std::int32_t>(value);
  }
}

// An input of exactly the elements that sizes and strides reach, and where its first one is.
struct Input {
  std::vector<std::uint8_t> bytes;
  std::int64_t first = 0;
};

bool make_input(Source& source, l1sparse_conv2d_options& options, Input* input) {
  static constexpr std::int64_t kSizes[] = {4, 2, 2};
  const std::int64_t size = kSizes[options.dtype];
  const std::int64_t extents[4] = {std::max<std::int64_t>(options.batch, 1), options.in_channels,
                                   options.in_h, options.in_w};
  std::int64_t reach = 1, before = 0;
  const auto way = source.take<std::uint8_t>();
  if ((way & 1) == 0) {  // as the format lies
    for (const std::int64_t extent : extents) {
      if (extent > kMostBytes / reach) return false;
      reach *= extent;
    }
  } else {  // dimensions in some order, with gaps, backwards, or again and again
    for (int i = 0; i < 4; ++i) {
      const int dimension = (i + (way >> 1)) % 4;
      const auto how = source.take<std::uint8_t>();
      const bool again = how == 0 && i > 0;  // strides that are all 0 mean a dense input
      const std::int64_t stride = again ? 0 : reach + how % 3;
      if (stride > 0 && extents[dimension] > kMostBytes / stride) return false;
      const std::int64_t last = (extents[dimension] - 1) * stride;
      if ((how & 64) != 0) before += last;
      reach += last;
      options.input_strides[dimension] = (how & 64) != 0 ? -stride : stride;
    }
  }
  if (reach > kMostBytes / size) return false;
  input->bytes.assign(static_cast<std::size_t>(reach * size), 0x3c);
  input->first = before * size;
  return true;
}

void run_backwards(void*, std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  for (std::int64_t i = count - 1; i >= 0; --i) body(context, i);
}

void convolve(Source& source, const l1sparse_weight& weight, const l1sparse_shape& shape) {
  l1sparse_conv2d_options options = options_of(source, shape);
  if (source.between(0, 3) == 0) spoil(source, options);
  const std::int64_t few = source.between(0, 5);
  const l1sparse_threads threads = {run_backwards, nullptr,
                                    few == 5 ? source.take<std::int64_t>() : few};
  const auto extras = source.take<std::uint8_t>();
  l1sparse_conv2d_sizes sizes;
  if (!ok(l1sparse_conv2d_query(&weight, &options, threads.count, &sizes))) {
    l1sparse_conv2d_tensors none{};
    expect(!ok(l1sparse_conv2d(&weight, &options, &none, &threads, nullptr, 0)),
           "what the query refuses is computed");
    return;
  }
  const std::int64_t columns = shape.in_channels * shape.kernel_h * shape.kernel_w;
  Input input;
  if (static_cast<std::int64_t>(sizes.output_bytes) > kMostWork / columns ||
      !make_input(source, options, &input)) {
    return;
  }
  expect(ok(l1sparse_conv2d_query(&weight, &options, threads.count, &sizes)),
         "other strides are refused");
  const auto output_bytes = static_cast<std::int64_t>(sizes.output_bytes);
  const auto workspace_bytes = static_cast<std::int64_t>(sizes.workspace_bytes);
  if (workspace_bytes > kMostBytes) return;
  AlignedBytes output(output_bytes), workspace(workspace_bytes);
  const std::vector<float> bias(static_cast<std::size_t>(shape.out_channels), 0.5f);
  const std::vector<std::uint8_t> residual(sizes.output_bytes, 0x3c);
  const l1sparse_conv2d_tensors tensors = {
      input.bytes.data() + input.first, (extras & 1) != 0 ? bias.data() : nullptr,
      (extras & 2) != 0 ? static_cast<const void*>(residual.data()) : nullptr, output.data()};
  if (workspace_bytes > 0 && options.batch > 0) {
    expect(!ok(l1sparse_conv2d(&weight, &options, &tensors, &threads, workspace.data(),
                               sizes.workspace_bytes - 1)),
           "too little scratch memory is enough");
  }
  const l1sparse_status status =
      l1sparse_conv2d(&weight, &options, &tensors, threads.count > 1 ? &threads : nullptr,
                      workspace.data(), sizes.workspace_bytes);
  char text[160];
  l1sparse_status_text(status, text, sizeof(text));
  expect(ok(status), text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Source source(data, size);
  const auto mode = source.take<std::uint8_t>();
  static constexpr const char* kIsas[] = {"avx512", "avx2", "neon", "scalar", "avx512_bf16", ""};
  if (!ok(l1sparse_select_isa(kIsas[source.between(0, 5)]))) l1sparse_select_isa("");
  std::vector<std::uint8_t> bytes;
  Source how = source;  // numbers for the convolution, where the rest is the weight
  if ((mode & 1) != 0) {
    bytes = packed_of(source);
    damage(source, bytes);
    how = source;
  } else {
    for (int i = 0; i < 64; ++i) source.take<std::uint8_t>();
    bytes = source.rest();
  }
  if ((mode & 2) != 0) fix_up(bytes);

  const AlignedBytes packed(bytes);
  l1sparse_weight weight, reopened;
  const bool opens = ok(l1sparse_weight_open(packed.data(), bytes.size(), &weight));
  const bool reopens = ok(l1sparse_weight_reopen(packed.data(), bytes.size(), &reopened));
  expect(reopens || !opens, "what opens does not reopen");
  l1sparse_shape shape;
  expect(ok(l1sparse_weight_shape(&reopened, &shape)) == reopens,
         "only opened weights have shapes");
  if (!reopens) return 0;
  std::int64_t weights = 1;
  for (const std::int64_t extent :
       {shape.out_channels, shape.in_channels, shape.kernel_h, shape.kernel_w}) {
    if (extent > kMostBytes / 4 / weights) return 0;
    weights *= extent;
  }
  std::vector<float> dense(static_cast<std::size_t>(weights));
  expect(ok(l1sparse_unpack(&reopened, dense.data())), "what opens does not unpack");
  convolve(how, reopened, shape);
  return 0;
}

#if !defined(L1SPARSE_LIBFUZZER)
int main() {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator("corpus")) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    const std::vector<std::uint8_t> bytes(content.begin(), content.end());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    ++files;
  }
  std::printf("%d files of the corpus\n", files);
  return files > 0 ? 0 : 1;
}
#endif

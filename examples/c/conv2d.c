/* SPDX-License-Identifier: MIT */
/* One group-sparse convolution, padded as much as its kernel needs and followed by ReLU.
 *
 *   conv2d PACKED HEIGHT WIDTH < input > output
 *
 * PACKED is a file with the bytes of l1sparse.pack(); input and output are raw float32, NCHW. */
#include <l1sparse.h>
#include <stdio.h>
#include <stdlib.h>

/* `bytes` of memory that the library can use; sizes of aligned_alloc are multiples of the
 * alignment. */
static void* aligned(size_t bytes) {
  void* memory =
      aligned_alloc(L1SPARSE_ALIGNMENT, (bytes / L1SPARSE_ALIGNMENT + 1) * L1SPARSE_ALIGNMENT);
  if (memory == NULL) {
    fprintf(stderr, "conv2d: out of memory\n");
    exit(1);
  }
  return memory;
}

static void check(l1sparse_status status) {
  char text[160];
  if (status.code == L1SPARSE_OK) return;
  l1sparse_status_text(status, text, sizeof(text));
  fprintf(stderr, "conv2d: %s\n", text);
  exit(1);
}

/* The whole file, and how many bytes it has. */
static void* read_file(const char* path, size_t* bytes) {
  FILE* file = fopen(path, "rb");
  long size = -1;
  void* memory;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) size = ftell(file);
  if (size < 0) {
    perror(path);
    exit(1);
  }
  rewind(file);
  memory = aligned((size_t)size);
  *bytes = fread(memory, 1, (size_t)size, file);
  fclose(file);
  return memory;
}

int main(int count, char** arguments) {
  size_t bytes;
  l1sparse_weight weight;
  l1sparse_shape shape;
  l1sparse_conv2d_options options;
  l1sparse_conv2d_sizes sizes;
  l1sparse_conv2d_tensors tensors = {0};
  float *input, *output;
  void *packed, *workspace;
  if (count != 4) {
    fprintf(stderr, "usage: conv2d PACKED HEIGHT WIDTH < input > output\n");
    return 2;
  }
  packed = read_file(arguments[1], &bytes);
  check(l1sparse_weight_open(packed, bytes, &weight));
  check(l1sparse_weight_shape(&weight, &shape));
  l1sparse_conv2d_init(&options, 1, shape.in_channels, atol(arguments[2]), atol(arguments[3]));
  options.pad_top = options.pad_bottom = shape.kernel_h / 2;
  options.pad_left = options.pad_right = shape.kernel_w / 2;
  options.activation = L1SPARSE_RELU;
  check(l1sparse_conv2d_query(&weight, &options, 1, &sizes));
  bytes = (size_t)(options.in_channels * options.in_h * options.in_w) * sizeof(float);
  tensors.input = input = aligned(bytes);
  tensors.output = output = aligned(sizes.output_bytes);
  workspace = aligned(sizes.workspace_bytes);
  if (fread(input, 1, bytes, stdin) != bytes) {
    fprintf(stderr, "conv2d: the input is too short, expected %zu bytes\n", bytes);
    return 1;
  }
  check(l1sparse_conv2d(&weight, &options, &tensors, NULL, workspace, sizes.workspace_bytes));
  return fwrite(output, 1, sizes.output_bytes, stdout) == sizes.output_bytes ? 0 : 1;
}

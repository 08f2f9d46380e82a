/* SPDX-License-Identifier: MIT */
/* Group-sparse convolution in C: what a program without Python and torch links.
 *
 * Every function returns at once with an l1sparse_status; nothing here throws, prints, starts a
 * thread or allocates memory. A convolution takes three steps:
 *
 *   1. l1sparse_weight_open       checks a packed weight, once
 *   2. l1sparse_conv2d_query      tells the sizes of output and scratch memory for given options
 *   3. l1sparse_conv2d            computes; any number of times, on any threads
 *
 * All functions may be called from several threads, each call with an output and scratch memory of
 * its own. Sizes are counted in elements unless a name ends in `bytes`.
 */
#ifndef L1SPARSE_H
#define L1SPARSE_H

#include <stddef.h>
#include <stdint.h>

#if !defined(L1SPARSE_API)
#define L1SPARSE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define L1SPARSE_VERSION_MAJOR 0
#define L1SPARSE_VERSION_MINOR 1
#define L1SPARSE_VERSION_PATCH 0

/* Packed weights and scratch memory start at a multiple of this many bytes. */
#define L1SPARSE_ALIGNMENT 64

/* ---- status ---------------------------------------------------------------------------------- */

enum {
  L1SPARSE_OK = 0,
  /* A packed weight, or arguments that do not fit it. */
  L1SPARSE_BAD_GROUP = 1,
  L1SPARSE_BAD_SHAPE = 2,
  L1SPARSE_MASK_CUTS_GROUP = 3,
  L1SPARSE_TOO_LARGE = 4,
  L1SPARSE_PACKED_UNALIGNED = 5,
  L1SPARSE_PACKED_TOO_SHORT = 6,
  L1SPARSE_PACKED_MAGIC = 7,
  L1SPARSE_PACKED_VERSION = 8,
  L1SPARSE_PACKED_DTYPE = 9,
  L1SPARSE_PACKED_STRATEGY = 10,
  L1SPARSE_PACKED_FIELD = 11,
  L1SPARSE_PACKED_SIZE = 12,
  L1SPARSE_PACKED_CHECKSUM = 13,
  L1SPARSE_PACKED_ROW_OFFSET = 14,
  L1SPARSE_PACKED_ENTRY = 15,
  L1SPARSE_CHANNELS_MISMATCH = 16,
  L1SPARSE_GROUPS_MISMATCH = 17,
  L1SPARSE_BAD_STRIDE = 18,
  L1SPARSE_BAD_PADDING = 19,
  L1SPARSE_BAD_DILATION = 20,
  L1SPARSE_BAD_GROUPS = 21,
  L1SPARSE_EMPTY_OUTPUT = 22,
  /* Arguments of this interface. */
  L1SPARSE_NULL_ARGUMENT = 100,
  L1SPARSE_STRUCT_SIZE = 101,
  L1SPARSE_OUT_OF_RANGE = 102,
  L1SPARSE_BAD_CLAMP = 103,
  L1SPARSE_WEIGHT_NOT_OPEN = 104,
  L1SPARSE_UNALIGNED = 105,
  L1SPARSE_WORKSPACE_TOO_SMALL = 106,
  L1SPARSE_UNKNOWN_ISA = 107,
  L1SPARSE_NO_ISA = 108,            /* this processor runs no instruction set that was built in */
  L1SPARSE_PROGRAM_UNCHECKED = 109, /* no checksum at the end: cut short, or of another exporter */
  L1SPARSE_PROGRAM_DAMAGED = 110
};

typedef struct l1sparse_status {
  int32_t code;     /* one of the above */
  int32_t argument; /* which argument; l1sparse_status_text names it */
  int64_t got;      /* the value it had */
  int64_t want;     /* and its bound, where the code has these */
} l1sparse_status;

/* Writes one line that names the argument, the value it had and what would be right; it always
 * ends in a zero byte when `capacity` > 0. 160 bytes hold every text. */
L1SPARSE_API void l1sparse_status_text(l1sparse_status status, char* text, size_t capacity);

/* ---- version and features -------------------------------------------------------------------- */

/* major * 10000 + minor * 100 + patch, of the library that runs; compare it with the macros. */
L1SPARSE_API int32_t l1sparse_version(void);

/* Whether the library has what `name` says: "avx512_bf16", "avx512", "avx2", "neon", "scalar"
 * (instruction sets compiled in), "float16", "bfloat16", "threads", "pack", "group_l1_norm".
 * Unknown names and NULL give 0. */
L1SPARSE_API int32_t l1sparse_has(const char* name);

/* The instruction set that convolutions run on: the best that this processor has, unless selected
 * otherwise. */
L1SPARSE_API const char* l1sparse_isa(void);

/* Forces an instruction set for the whole process, "" for the best again. Scratch memory has to be
 * asked for anew. */
L1SPARSE_API l1sparse_status l1sparse_select_isa(const char* name);

/* ---- threads --------------------------------------------------------------------------------- */

/* How the library asks its caller for threads. Passing NULL instead runs on the calling thread. */
typedef struct l1sparse_threads {
  /* Calls body(context, i) once for every i in [0, count), on any threads, and returns when all
   * calls have. */
  void (*run)(void* pool, int64_t count, void (*body)(void* context, int64_t index), void* context);
  void* pool;    /* the caller's own, handed to `run` */
  int64_t count; /* how many calls may run at the same time, 1 to 65536 */
} l1sparse_threads;

/* ---- packed weights -------------------------------------------------------------------------- */

/* Shape of a dense weight [out_channels, in_channels, kernel_h, kernel_w], in_channels those of one
 * convolution group; and of the groups of weights that are kept or pruned together. */
typedef struct l1sparse_shape {
  int64_t out_channels, in_channels, kernel_h, kernel_w;
  int64_t group_filters, group_channels;
} l1sparse_shape;

/* An opened packed weight, in the caller's memory; it needs no closing. Copies are as good. */
typedef struct l1sparse_weight {
  uint64_t opaque[24];
} l1sparse_weight;

/* Opens the buffer that `l1sparse.pack` made: sizes, offsets, order and checksum are checked here,
 * and nowhere later. The buffer has to stay where it is, unchanged, while the weight is used. */
L1SPARSE_API l1sparse_status l1sparse_weight_open(const void* packed, size_t bytes,
                                                  l1sparse_weight* weight);

/* Opens a buffer that l1sparse_weight_open has accepted before, where the opened weight could not
 * be kept: what memory safety rests on is checked again, but not the checksum. */
L1SPARSE_API l1sparse_status l1sparse_weight_reopen(const void* packed, size_t bytes,
                                                    l1sparse_weight* weight);

L1SPARSE_API l1sparse_status l1sparse_weight_shape(const l1sparse_weight* weight,
                                                   l1sparse_shape* shape);

/* Writes the dense weight, pruned weights as +0. */
L1SPARSE_API l1sparse_status l1sparse_unpack(const l1sparse_weight* weight, float* dense);

enum {
  L1SPARSE_AUTO = 0,
  L1SPARSE_CHANNELS = 1,
  L1SPARSE_PIXELS = 2,
  L1SPARSE_FILTERS = 3
}; /* strategies */

/* Sizes of the grid of groups [filter_groups, channel_groups, kernel_h, kernel_w]. */
L1SPARSE_API l1sparse_status l1sparse_grid(const l1sparse_shape* shape, int64_t grid[4]);

/* Bytes of the packed form. `mask` has one byte for each group of the grid, 0 for pruned. */
L1SPARSE_API l1sparse_status l1sparse_pack_bytes(const l1sparse_shape* shape, const uint8_t* mask,
                                                 int32_t strategy, size_t* bytes);

/* Packs into `buffer`, which has exactly l1sparse_pack_bytes' bytes. */
L1SPARSE_API l1sparse_status l1sparse_pack(const l1sparse_shape* shape, const float* dense,
                                           const uint8_t* mask, int32_t strategy, void* buffer,
                                           size_t bytes);

/* Mean absolute weight of every group, into `norms`, an array of the grid's sizes. */
L1SPARSE_API l1sparse_status l1sparse_group_l1_norm(const l1sparse_shape* shape, const float* dense,
                                                    const l1sparse_threads* threads, float* norms);

/* ---- convolution ----------------------------------------------------------------------------- */

enum { L1SPARSE_FLOAT32 = 0, L1SPARSE_BFLOAT16 = 1, L1SPARSE_FLOAT16 = 2 };
enum { L1SPARSE_NCHW = 0, L1SPARSE_NHWC = 1 };
enum { L1SPARSE_NONE = 0, L1SPARSE_RELU = 1, L1SPARSE_CLAMP = 2, L1SPARSE_HARDSWISH = 3 };

/* output = activation(conv2d(input, weight) + bias + residual), as torch.nn.functional.conv2d, but
 * a pruned weight contributes nothing, even where the input is infinite or NaN. Sums are float32.
 */
typedef struct l1sparse_conv2d_options {
  size_t struct_size; /* set by l1sparse_conv2d_init; says which version of this the caller knows */
  int64_t batch, in_channels, in_h, in_w;
  int64_t input_strides[4]; /* of N, C, H, W, any; all 0: as `format` lies without gaps */
  int64_t stride_h, stride_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right; /* zeros around the input */
  int64_t dilation_h, dilation_w;
  int64_t groups;
  int32_t dtype;  /* of input, residual and output */
  int32_t format; /* how output and residual lie */
  int32_t activation;
  float low, high; /* of L1SPARSE_CLAMP; 0 and 6 is ReLU6 */
} l1sparse_conv2d_options;

typedef struct l1sparse_conv2d_sizes {
  int64_t out_h, out_w;
  size_t output_bytes;
  size_t workspace_bytes;
} l1sparse_conv2d_sizes;

/* Memory that begins with a cache line (64 bytes) is read and written fastest. */
typedef struct l1sparse_conv2d_tensors {
  const void* input;
  const float* bias;    /* [out_channels], or NULL */
  const void* residual; /* of the output's shape, dtype and format, or NULL */
  void* output;         /* must not overlap any of the others */
} l1sparse_conv2d_tensors;

/* A float32 NCHW input of these sizes; stride, dilation and groups 1, no padding, no activation. */
L1SPARSE_API void l1sparse_conv2d_init(l1sparse_conv2d_options* options, int64_t batch,
                                       int64_t in_channels, int64_t in_h, int64_t in_w);

/* Checks the options against the weight, and tells what memory the convolution needs with so many
 * threads and the instruction set in use. */
L1SPARSE_API l1sparse_status l1sparse_conv2d_query(const l1sparse_weight* weight,
                                                   const l1sparse_conv2d_options* options,
                                                   int64_t threads, l1sparse_conv2d_sizes* sizes);

/* Computes the convolution. All tensors start at a multiple of their elements' size. `workspace` is
 * scratch memory: at least l1sparse_conv2d_query's workspace_bytes, from a multiple of
 * L1SPARSE_ALIGNMENT on, with no content that matters. */
L1SPARSE_API l1sparse_status l1sparse_conv2d(const l1sparse_weight* weight,
                                             const l1sparse_conv2d_options* options,
                                             const l1sparse_conv2d_tensors* tensors,
                                             const l1sparse_threads* threads, void* workspace,
                                             size_t workspace_bytes);

/* ---- exported programs ----------------------------------------------------------------------- */

/* Compares the bytes of a program that l1sparse.export_executorch wrote with the checksum at its
 * end, before ExecuTorch sees them: its own verification lets some damaged programs through that
 * then end the process. It tells damage, not forgery. */
L1SPARSE_API l1sparse_status l1sparse_program_check(const void* program, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif

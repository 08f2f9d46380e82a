// SPDX-License-Identifier: MIT
// The Python module l1sparse._cuda: the GPU launchers with addresses as numbers, all arguments by
// name. Knows nothing of torch; l1sparse/_cuda.pyi says what the arguments are.
#include <Python.h>

#include <cstring>

#include "base/gpu.h"
#include "kernels/conv2d/gpu.h"
#include "kernels/group_l1/gpu.h"

namespace {

using Address = unsigned long long;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
}

// The place of `name` in a list of `count`; else -1 with a Python exception set.
int index_of(const char* argument, const char* name, const char* const* names, int count) {
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(name, names[i]) == 0) return i;
  }
  PyErr_Format(PyExc_ValueError, "%s: got '%s', which the GPU kernels do not know", argument, name);
  return -1;
}

// In the order of the enumerations.
constexpr const char* kDTypes[] = {"float32", "bfloat16", "float16"};
constexpr const char* kActivations[] = {"none", "relu", "clamp", "hardswish"};

bool read_dtype(const char* name, l1sparse::DType* dtype) {
  const int index = index_of("dtype", name, kDTypes, 3);
  if (index >= 0) *dtype = static_cast<l1sparse::DType>(index);
  return index >= 0;
}

PyObject* result_of(int error) {
  if (error == 0) Py_RETURN_NONE;
  PyErr_Format(PyExc_RuntimeError, "CUDA error %d: %s", error, l1sparse::gpu_error_text(error));
  return nullptr;
}

// Runs `launch` on `device`, other Python threads running meanwhile.
template <class Launch>
PyObject* on_device(int device, const Launch& launch) {
  int error = 0;
  Py_BEGIN_ALLOW_THREADS;
  error = l1sparse::select_gpu(device);
  if (error == 0) error = launch();
  Py_END_ALLOW_THREADS;
  return result_of(error);
}

PyObject* group_l1_norm(PyObject*, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"device", "stream", "dtype", "weight",
                                "norms",  "shape",  "group", nullptr};
  int device;
  Address stream, weight, norms;
  const char* dtype;
  long long shape[3], group[2];
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$iKsKK(LLL)(LL)", const_cast<char**>(names),
                                   &device, &stream, &dtype, &weight, &norms, &shape[0], &shape[1],
                                   &shape[2], &group[0], &group[1])) {
    return nullptr;
  }
  l1sparse::GpuGroupL1 problem{shape[0],
                               shape[1],
                               shape[2],
                               group[0],
                               group[1],
                               {},
                               pointer<const void>(weight),
                               pointer<float>(norms)};
  if (!read_dtype(dtype, &problem.dtype)) return nullptr;
  return on_device(device,
                   [&] { return l1sparse::launch_group_l1(problem, pointer<void>(stream)); });
}

// What all convolutions take. Names and formats are in the order of `read`'s addresses.
struct ConvArguments {
  l1sparse::GpuConv2d conv{};
  int device = 0;
  Address stream = 0, input = 0, output = 0, bias = 0, residual = 0, filter_order = 0;
  Address block_offsets = 0, columns = 0, tile_offsets = 0, tiles = 0, partial = 0;
  const char* dtype = "";
  const char* activation = "";
  int extra[2] = {0, 0};             // the kernel's own numbers
  Address extra_arrays[2] = {0, 0};  // and arrays

  // `own` are the names of `extra` (of which there are `numbers`: 2, 1 or 0) and `extra_arrays`
  // (0, 2 or 1).
  bool read(PyObject* args, PyObject* kwargs, const char* const (&own)[3], int numbers) {
    const char* names[] = {
        "device",   "stream",       "dtype",         "input",       "output",       "bias",
        "residual", "filter_order", "block_offsets", "columns",     "tile_offsets", "tiles",
        "partial",  "blocks",       "splits",        "input_shape", "output_shape", "stride",
        "padding",  "dilation",     "groups",        "activation",  "clamp",        own[0],
        own[1],     own[2],         nullptr};
    int in[4], out[4];
    void* extras[3];
    for (int i = 0; i < 3; ++i) {
      extras[i] = i < numbers ? static_cast<void*>(&extra[i])
                              : static_cast<void*>(&extra_arrays[i - numbers]);
    }
    const char* format = numbers == 2   ? "$iKsKKKKKKKKKKii(iiii)(iiii)(ii)(ii)(ii)is(ff)ii"
                         : numbers == 1 ? "$iKsKKKKKKKKKKii(iiii)(iiii)(ii)(ii)(ii)is(ff)iKK"
                                        : "$iKsKKKKKKKKKKii(iiii)(iiii)(ii)(ii)(ii)is(ff)K";
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, format, const_cast<char**>(names), &device, &stream, &dtype, &input,
            &output, &bias, &residual, &filter_order, &block_offsets, &columns, &tile_offsets,
            &tiles, &partial, &conv.blocks, &conv.splits, &in[0], &in[1], &in[2], &in[3], &out[0],
            &out[1], &out[2], &out[3], &conv.stride_h, &conv.stride_w, &conv.pad_top,
            &conv.pad_left, &conv.dilation_h, &conv.dilation_w, &conv.groups, &activation,
            &conv.low, &conv.high, extras[0], extras[1], extras[2])) {
      return false;
    }
    if (in[0] != out[0]) {
      PyErr_Format(PyExc_ValueError, "output_shape: has batch %d, expected the input's %d", out[0],
                   in[0]);
      return false;
    }
    const int chosen = index_of("activation", activation, kActivations, 4);
    if (chosen < 0 || !read_dtype(dtype, &conv.dtype)) return false;
    conv.activation = static_cast<l1sparse::Activation>(chosen);
    conv.batch = in[0], conv.in_channels = in[1], conv.in_h = in[2], conv.in_w = in[3];
    conv.out_channels = out[1], conv.out_h = out[2], conv.out_w = out[3];
    conv.input = pointer<const void>(input);
    conv.output = pointer<void>(output);
    conv.bias = pointer<const float>(bias);
    conv.residual = pointer<const void>(residual);
    conv.filter_order = pointer<const int>(filter_order);
    conv.block_offsets = pointer<const int>(block_offsets);
    conv.columns = pointer<const int>(columns);
    conv.tile_offsets = pointer<const int>(tile_offsets);
    conv.tiles = pointer<const void>(tiles);
    conv.partial = pointer<float>(partial);
    return true;
  }
};

PyObject* tensor_core_conv2d(PyObject*, PyObject* args, PyObject* kwargs) {
  ConvArguments arguments;
  if (!arguments.read(args, kwargs, {"strips", "pixels", nullptr}, 2)) return nullptr;
  const l1sparse::TensorCoreConv2d problem{arguments.conv, arguments.extra[0], arguments.extra[1]};
  return on_device(arguments.device, [&] {
    return l1sparse::launch_tensor_core_conv2d(problem, pointer<void>(arguments.stream));
  });
}

PyObject* compressed_conv2d(PyObject*, PyObject* args, PyObject* kwargs) {
  ConvArguments arguments;
  if (!arguments.read(args, kwargs, {"piece_masks", nullptr, nullptr}, 0)) return nullptr;
  const l1sparse::CompressedConv2d problem{arguments.conv,
                                           pointer<const int>(arguments.extra_arrays[0])};
  return on_device(arguments.device, [&] {
    return l1sparse::launch_compressed_conv2d(problem, pointer<void>(arguments.stream));
  });
}

PyObject* simt_conv2d(PyObject*, PyObject* args, PyObject* kwargs) {
  ConvArguments arguments;
  if (!arguments.read(args, kwargs, {"chunk", "filter_masks", "block_order"}, 1)) return nullptr;
  const l1sparse::SimtConv2d problem{arguments.conv, arguments.extra[0],
                                     pointer<const int>(arguments.extra_arrays[0]),
                                     pointer<const int>(arguments.extra_arrays[1])};
  return on_device(arguments.device, [&] {
    return l1sparse::launch_simt_conv2d(problem, pointer<void>(arguments.stream));
  });
}

// A function with keyword arguments where the table wants one without.
PyCFunction keywords(PyCFunctionWithKeywords function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"group_l1_norm", keywords(group_l1_norm), METH_VARARGS | METH_KEYWORDS,
     "Launch the group L1 norms."},
    {"tensor_core_conv2d", keywords(tensor_core_conv2d), METH_VARARGS | METH_KEYWORDS,
     "Launch the convolution for tensor cores."},
    {"compressed_conv2d", keywords(compressed_conv2d), METH_VARARGS | METH_KEYWORDS,
     "Launch the convolution for tensor cores whose weights are compressed."},
    {"simt_conv2d", keywords(simt_conv2d), METH_VARARGS | METH_KEYWORDS,
     "Launch the convolution for ordinary arithmetic."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_cuda", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cuda() { return PyModule_Create(&module); }

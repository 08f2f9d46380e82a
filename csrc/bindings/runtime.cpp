// SPDX-License-Identifier: MIT
// The Python module l1sparse._runtime: the C interface on whatever has Python's buffer protocol,
// which NumPy's arrays have. Shapes, types and strides come from the buffers themselves, so that a
// direct call is as safe as one through l1sparse.runtime. It knows nothing of torch nor of NumPy.
// Buffers are in the limited interface from Python 3.11 on; torch's build asks for an older one.
#undef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "include/l1sparse.h"

namespace {

constexpr char kWeightName[] = "l1sparse.weight";

bool check(l1sparse_status status) {
  if (status.code == L1SPARSE_OK) return true;
  char text[160];
  l1sparse_status_text(status, text, sizeof(text));
  PyErr_SetString(PyExc_ValueError, text);
  return false;
}

void* aligned(size_t bytes) {
  const size_t rounded = (bytes / L1SPARSE_ALIGNMENT + 1) * L1SPARSE_ALIGNMENT;
  void* memory = rounded < bytes ? nullptr : std::aligned_alloc(L1SPARSE_ALIGNMENT, rounded);
  if (memory == nullptr) PyErr_NoMemory();
  return memory;
}

// A buffer of an argument, released at the end of the call.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (held_) PyBuffer_Release(&view);
  }

  // `types`: letters of the struct module. Strides have to be whole elements, none negative.
  bool take(PyObject* object, const char* name, const char* types, int rank, bool writable) {
    if (PyObject_GetBuffer(object, &view, writable ? PyBUF_FULL : PyBUF_FULL_RO) != 0) return false;
    held_ = true;
    const char* format = view.format == nullptr ? "B" : view.format;
    if (*format == '@' || *format == '=' || *format == '<') ++format;
    type = std::strlen(format) == 1 && std::strchr(types, *format) != nullptr ? *format : '\0';
    if (type == '\0') {
      PyErr_Format(PyExc_TypeError, "%s: has format '%s', expected one of '%s'", name, view.format,
                   types);
      return false;
    }
    if (view.ndim != rank) {
      PyErr_Format(PyExc_ValueError, "%s: has %d dimensions, expected %d", name, view.ndim, rank);
      return false;
    }
    const auto item = static_cast<size_t>(view.itemsize);
    bool whole = reinterpret_cast<std::uintptr_t>(view.buf) % item == 0;
    bool spread = rank == 0;  // strides that are all 0 mean a dense input to the C interface
    for (int i = 0; i < rank; ++i) {
      whole &= view.strides[i] >= 0 && view.strides[i] % view.itemsize == 0;
      spread |= view.strides[i] != 0;
    }
    whole &= spread;
    if (!whole) {
      PyErr_Format(PyExc_ValueError,
                   "%s: lies unaligned, backwards or all in one place, expected whole, ascending "
                   "elements",
                   name);
    }
    return whole;
  }

  std::int64_t size(int i) const { return view.shape[i]; }

  // Whether it has this shape and no gaps, NCHW or NHWC where `last` says so.
  bool lies_dense(const std::int64_t (&shape)[4], bool last) const {
    const std::int64_t n = shape[1] * shape[2] * shape[3];
    const std::int64_t nchw[4] = {n, shape[2] * shape[3], shape[3], 1};
    const std::int64_t nhwc[4] = {n, 1, shape[3] * shape[1], shape[1]};
    for (int i = 0; i < 4; ++i) {
      if (view.shape[i] != shape[i]) return false;
      const std::int64_t stride = (last ? nhwc : nchw)[i];
      if (shape[i] > 1 && view.strides[i] != stride * view.itemsize) return false;
    }
    return true;
  }

  Py_buffer view;
  char type = '\0';

 private:
  bool held_ = false;
};

bool is_dense(const Buffer& buffer, const char* name) {
  if (PyBuffer_IsContiguous(&buffer.view, 'C')) return true;
  PyErr_Format(PyExc_ValueError, "%s: has gaps or another order, expected a C-contiguous array",
               name);
  return false;
}

// ---- weights
// -------------------------------------------------------------------------------------

// The opened weight and a copy of its bytes, which nobody else can change.
struct Weight {
  l1sparse_weight opened;
  void* bytes;
};

void free_weight(PyObject* capsule) {
  auto* weight = static_cast<Weight*>(PyCapsule_GetPointer(capsule, kWeightName));
  if (weight == nullptr) return;
  std::free(weight->bytes);
  std::free(weight);
}

PyObject* open_weight(PyObject*, PyObject* object) {
  Buffer packed;
  if (!packed.take(object, "packed", "B", 1, false) || !is_dense(packed, "packed")) return nullptr;
  const auto bytes = static_cast<size_t>(packed.view.len);
  auto* weight = static_cast<Weight*>(std::calloc(1, sizeof(Weight)));
  if (weight == nullptr) return PyErr_NoMemory();
  PyObject* capsule = nullptr;
  weight->bytes = aligned(bytes);
  if (weight->bytes != nullptr) {
    std::memcpy(weight->bytes, packed.view.buf, bytes);
    if (check(l1sparse_weight_open(weight->bytes, bytes, &weight->opened))) {
      capsule = PyCapsule_New(weight, kWeightName, free_weight);
    }
  }
  if (capsule == nullptr) {
    std::free(weight->bytes);
    std::free(weight);
  }
  return capsule;
}

const l1sparse_weight* weight_of(PyObject* capsule) {
  auto* weight = static_cast<Weight*>(PyCapsule_GetPointer(capsule, kWeightName));
  return weight == nullptr ? nullptr : &weight->opened;
}

PyObject* weight_shape(PyObject*, PyObject* capsule) {
  const l1sparse_weight* weight = weight_of(capsule);
  l1sparse_shape s;
  if (weight == nullptr || !check(l1sparse_weight_shape(weight, &s))) return nullptr;
  return Py_BuildValue("LLLLLL", s.out_channels, s.in_channels, s.kernel_h, s.kernel_w,
                       s.group_filters, s.group_channels);
}

PyObject* unpack(PyObject*, PyObject* arguments) {
  PyObject *capsule, *object;
  if (!PyArg_ParseTuple(arguments, "OO", &capsule, &object)) return nullptr;
  const l1sparse_weight* weight = weight_of(capsule);
  l1sparse_shape s;
  Buffer dense;
  if (weight == nullptr || !check(l1sparse_weight_shape(weight, &s)) ||
      !dense.take(object, "dense", "f", 4, true)) {
    return nullptr;
  }
  if (!dense.lies_dense({s.out_channels, s.in_channels, s.kernel_h, s.kernel_w}, false)) {
    PyErr_SetString(PyExc_ValueError, "dense: has another shape or gaps, expected the weight's");
    return nullptr;
  }
  l1sparse_status status;
  Py_BEGIN_ALLOW_THREADS;
  status = l1sparse_unpack(weight, static_cast<float*>(dense.view.buf));
  Py_END_ALLOW_THREADS;
  if (!check(status)) return nullptr;
  Py_RETURN_NONE;
}

// The weight and the groups' shape, as far as buffers tell; and the grid.
bool take_dense(PyObject* object, long long filters, long long channels, Buffer* dense,
                l1sparse_shape* shape, std::int64_t (&grid)[4]) {
  if (!dense->take(object, "weight", "f", 4, false) || !is_dense(*dense, "weight")) return false;
  *shape = {dense->size(0), dense->size(1), dense->size(2), dense->size(3), filters, channels};
  return check(l1sparse_grid(shape, grid));
}

PyObject* pack(PyObject*, PyObject* arguments) {
  PyObject *weight_object, *mask_object;
  long long filters, channels;
  int strategy;
  if (!PyArg_ParseTuple(arguments, "OOLLi", &weight_object, &mask_object, &filters, &channels,
                        &strategy)) {
    return nullptr;
  }
  Buffer dense, mask;
  l1sparse_shape shape;
  std::int64_t grid[4];
  if (!take_dense(weight_object, filters, channels, &dense, &shape, grid) ||
      !mask.take(mask_object, "mask", "?B", 4, false)) {
    return nullptr;
  }
  if (!mask.lies_dense(grid, false)) {
    PyErr_Format(PyExc_ValueError,
                 "mask: has another shape or gaps, expected the group grid's [%lld, %lld, %lld, "
                 "%lld]",
                 static_cast<long long>(grid[0]), static_cast<long long>(grid[1]),
                 static_cast<long long>(grid[2]), static_cast<long long>(grid[3]));
    return nullptr;
  }
  const auto* kept = static_cast<const std::uint8_t*>(mask.view.buf);
  size_t bytes = 0;
  if (!check(l1sparse_pack_bytes(&shape, kept, strategy, &bytes))) return nullptr;
  void* buffer = aligned(bytes);
  if (buffer == nullptr) return nullptr;
  l1sparse_status status;
  Py_BEGIN_ALLOW_THREADS;
  status = l1sparse_pack(&shape, static_cast<const float*>(dense.view.buf), kept, strategy, buffer,
                         bytes);
  Py_END_ALLOW_THREADS;
  PyObject* result = nullptr;
  if (check(status)) {
    result =
        PyByteArray_FromStringAndSize(static_cast<char*>(buffer), static_cast<Py_ssize_t>(bytes));
  }
  std::free(buffer);
  return result;
}

PyObject* group_l1_norm(PyObject*, PyObject* arguments) {
  PyObject *weight_object, *norms_object;
  long long filters, channels;
  if (!PyArg_ParseTuple(arguments, "OLLO", &weight_object, &filters, &channels, &norms_object)) {
    return nullptr;
  }
  Buffer dense, norms;
  l1sparse_shape shape;
  std::int64_t grid[4];
  if (!take_dense(weight_object, filters, channels, &dense, &shape, grid) ||
      !norms.take(norms_object, "norms", "f", 4, true)) {
    return nullptr;
  }
  if (!norms.lies_dense(grid, false)) {
    PyErr_SetString(PyExc_ValueError,
                    "norms: has another shape or gaps, expected the group grid's");
    return nullptr;
  }
  l1sparse_status status;
  Py_BEGIN_ALLOW_THREADS;
  status = l1sparse_group_l1_norm(&shape, static_cast<const float*>(dense.view.buf), nullptr,
                                  static_cast<float*>(norms.view.buf));
  Py_END_ALLOW_THREADS;
  if (!check(status)) return nullptr;
  Py_RETURN_NONE;
}

// ---- convolution
// ---------------------------------------------------------------------------------

PyObject* conv2d(PyObject*, PyObject* arguments) {
  PyObject *input_object, *capsule, *bias_object, *residual_object, *output_object;
  long long stride[2], padding[4], dilation[2], groups;
  int activation, last;
  float low, high;
  if (!PyArg_ParseTuple(arguments, "OOOOO(LL)(LLLL)(LL)Liffp", &input_object, &capsule,
                        &bias_object, &residual_object, &output_object, &stride[0], &stride[1],
                        &padding[0], &padding[1], &padding[2], &padding[3], &dilation[0],
                        &dilation[1], &groups, &activation, &low, &high, &last)) {
    return nullptr;
  }
  const l1sparse_weight* weight = weight_of(capsule);
  l1sparse_shape shape;
  Buffer input, bias, residual, output;
  if (weight == nullptr || !check(l1sparse_weight_shape(weight, &shape)) ||
      !input.take(input_object, "input", "fe", 4, false)) {
    return nullptr;
  }
  const char type[2] = {input.type, '\0'};
  if (!output.take(output_object, "output", type, 4, true)) return nullptr;
  if (bias_object != Py_None &&
      (!bias.take(bias_object, "bias", "f", 1, false) || !is_dense(bias, "bias"))) {
    return nullptr;
  }
  if (residual_object != Py_None && !residual.take(residual_object, "residual", type, 4, false)) {
    return nullptr;
  }
  l1sparse_conv2d_options options;
  l1sparse_conv2d_init(&options, input.size(0), input.size(1), input.size(2), input.size(3));
  for (int i = 0; i < 4; ++i) {
    options.input_strides[i] = input.view.strides[i] / input.view.itemsize;
  }
  options.stride_h = stride[0];
  options.stride_w = stride[1];
  options.pad_top = padding[0];
  options.pad_left = padding[1];
  options.pad_bottom = padding[2];
  options.pad_right = padding[3];
  options.dilation_h = dilation[0];
  options.dilation_w = dilation[1];
  options.groups = groups;
  options.dtype = input.type == 'f' ? L1SPARSE_FLOAT32 : L1SPARSE_FLOAT16;
  options.format = last != 0 ? L1SPARSE_NHWC : L1SPARSE_NCHW;
  options.activation = activation;
  options.low = low;
  options.high = high;
  l1sparse_conv2d_sizes sizes;
  if (!check(l1sparse_conv2d_query(weight, &options, 1, &sizes))) return nullptr;
  const std::int64_t out[4] = {options.batch, shape.out_channels, sizes.out_h, sizes.out_w};
  const bool residual_fits = residual_object == Py_None || residual.lies_dense(out, last != 0);
  if (!residual_fits || !output.lies_dense(out, last != 0)) {
    PyErr_Format(PyExc_ValueError,
                 "%s: has another shape or gaps, expected [%lld, %lld, %lld, %lld]",
                 residual_fits ? "output" : "residual", static_cast<long long>(out[0]),
                 static_cast<long long>(out[1]), static_cast<long long>(out[2]),
                 static_cast<long long>(out[3]));
    return nullptr;
  }
  if (bias_object != Py_None && bias.size(0) != shape.out_channels) {
    PyErr_Format(PyExc_ValueError, "bias: has %lld values, expected %lld",
                 static_cast<long long>(bias.size(0)), static_cast<long long>(shape.out_channels));
    return nullptr;
  }
  void* workspace = aligned(sizes.workspace_bytes);
  if (workspace == nullptr) return nullptr;
  const l1sparse_conv2d_tensors tensors = {
      input.view.buf, bias_object == Py_None ? nullptr : static_cast<const float*>(bias.view.buf),
      residual_object == Py_None ? nullptr : residual.view.buf, output.view.buf};
  l1sparse_status status;
  Py_BEGIN_ALLOW_THREADS;
  status = l1sparse_conv2d(weight, &options, &tensors, nullptr, workspace, sizes.workspace_bytes);
  Py_END_ALLOW_THREADS;
  std::free(workspace);
  if (!check(status)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* isa(PyObject*, PyObject*) { return PyUnicode_FromString(l1sparse_isa()); }

PyObject* select_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) return nullptr;
  const bool selected = check(l1sparse_select_isa(PyBytes_AsString(bytes)));
  Py_DECREF(bytes);
  if (!selected) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"open_weight", open_weight, METH_O, "Check a packed weight and keep a copy of it."},
    {"weight_shape", weight_shape, METH_O, "(O, C, kH, kW, group filters, group channels)."},
    {"unpack", unpack, METH_VARARGS, "Write the dense weight into an array."},
    {"pack", pack, METH_VARARGS, "The packed weight, a bytearray."},
    {"group_l1_norm", group_l1_norm, METH_VARARGS, "Write the norms into an array."},
    {"conv2d", conv2d, METH_VARARGS, "Write the convolution's output into an array."},
    {"isa", isa, METH_NOARGS, "The instruction set in use."},
    {"select_isa", select_isa, METH_O, "Force one by name ('' = the best)."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_runtime", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__runtime() { return PyModule_Create(&module); }

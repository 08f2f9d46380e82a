// SPDX-License-Identifier: MIT
// The torch operators: thin shells that check what only torch knows (dtypes, ranks, devices), take
// memory from torch, and call the core. Errors of the core come out as its own texts.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"  // in torch's own headers
#include <torch/csrc/stable/library.h>
#pragma GCC diagnostic pop

#include "bindings/convolution.h"
#include "bindings/linear.h"
#include "bindings/training.h"
#include "bindings/weights.h"

STABLE_TORCH_LIBRARY(l1sparse, m) {
  m.def("group_l1_norm(Tensor weight, int[] group) -> Tensor");
  m.def("pack(Tensor weight, Tensor mask, int[] group, str strategy='auto') -> Tensor");
  m.def("packed_info(Tensor packed) -> int[]");
  m.def("unpack(Tensor packed, int[] weight_shape) -> Tensor");
  m.def(
      "sparse_conv2d(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias=None, "
      "int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], int groups=1, Tensor? "
      "residual=None, "
      "str activation='none', float clamp_min=0.0, float clamp_max=6.0, str backend='auto') -> "
      "Tensor");
  // `out` is where the output goes; it may be the residual.
  m.def(
      "sparse_conv2d_into(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias, int[] "
      "stride, int[] padding, int[] dilation, int groups, Tensor? residual, str activation, float "
      "clamp_min, float clamp_max, Tensor(a!) out) -> ()");
  // Several of these one after the other; bindings/convolution.h says what `steps` holds.
  m.def(
      "sparse_conv2d_sequence(Tensor[] read, Tensor(a!)[] written, Tensor steps, Tensor clamps) -> "
      "()");
  // NCHW, whatever the input is. The weight is packed for pixels.
  m.def(
      "sparse_conv2d_max_pool(Tensor input, Tensor packed, int[] weight_shape, Tensor? bias, int[] "
      "stride, int[] padding, int[] dilation, int groups, str activation, float clamp_min, float "
      "clamp_max, int[] pool_kernel, int[] pool_stride, int[] pool_padding) -> Tensor");
  // Of input [batch, features], or of the averages of [batch, features, h, w] over their pixels.
  m.def("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor");
  m.def("gather_values(Tensor weight, Tensor pattern, int[] values_shape) -> Tensor");
  m.def("scatter_values(Tensor values, Tensor pattern, int[] weight_shape) -> Tensor");
  m.def(
      "values_conv2d(Tensor input, Tensor values, Tensor pattern, int[] weight_shape, Tensor? "
      "bias=None, int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], int groups=1, "
      "Tensor? residual=None, str activation='none') -> Tensor");
  m.def(
      "conv2d_input_grad(Tensor grad, Tensor? values, Tensor pattern, int[] weight_shape, SymInt "
      "in_h, SymInt in_w, bool channels_last, int[] stride, int[] padding, int[] dilation, int "
      "groups) -> Tensor");
  m.def(
      "conv2d_values_grad(Tensor grad, Tensor input, Tensor pattern, int[] weight_shape, int[] "
      "values_shape, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def("_last_conv2d_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(l1sparse, CPU, m) {
  m.impl("group_l1_norm", TORCH_BOX(&l1sparse::bindings::group_l1_norm));
  m.impl("pack", TORCH_BOX(&l1sparse::bindings::pack));
  m.impl("packed_info", TORCH_BOX(&l1sparse::bindings::packed_info));
  m.impl("unpack", TORCH_BOX(&l1sparse::bindings::unpack));
  m.impl("sparse_conv2d", TORCH_BOX(&l1sparse::bindings::sparse_conv2d));
  m.impl("sparse_conv2d_into", TORCH_BOX(&l1sparse::bindings::sparse_conv2d_into));
  m.impl("sparse_conv2d_sequence", TORCH_BOX(&l1sparse::bindings::sparse_conv2d_sequence));
  m.impl("sparse_conv2d_max_pool", TORCH_BOX(&l1sparse::bindings::sparse_conv2d_max_pool));
  m.impl("linear", TORCH_BOX(&l1sparse::bindings::linear));
  m.impl("gather_values", TORCH_BOX(&l1sparse::bindings::gather_values));
  m.impl("scatter_values", TORCH_BOX(&l1sparse::bindings::scatter_values));
  m.impl("values_conv2d", TORCH_BOX(&l1sparse::bindings::values_conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&l1sparse::bindings::conv2d_input_grad));
  m.impl("conv2d_values_grad", TORCH_BOX(&l1sparse::bindings::conv2d_values_grad));
}

STABLE_TORCH_LIBRARY_IMPL(l1sparse, CompositeExplicitAutograd, m) {
  m.impl("_last_conv2d_isa", TORCH_BOX(&l1sparse::bindings::last_isa));
}

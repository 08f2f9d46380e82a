"""The GPU launchers of csrc/kernels/*/gpu.h, which say what the arrays hold.

Addresses are numbers, as ``Tensor.data_ptr()`` gives them, 0 where there is no such tensor. Every
function launches on `stream` of `device` and waits for nothing. It checks sizes, not addresses:
those must be of arrays on `device` that live until the launch is done.

Raises of every function: RuntimeError with the text of the CUDA error (without a driver too), and
TypeError, ValueError or OverflowError for arguments of another form.
"""

_Pair = tuple[int, int]
_Four = tuple[int, int, int, int]

def group_l1_norm(
    *,
    device: int,
    stream: int,
    dtype: str,
    weight: int,
    norms: int,
    shape: tuple[int, int, int],
    group: _Pair,
) -> None:
    """Fill `norms`, float32, for a contiguous weight.

    Args:
        device: number of the GPU.
        stream: ``torch.cuda.Stream.cuda_stream``.
        dtype: of the weight: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        weight: address of ``[O, C, taps]``.
        norms: address of the group grid.
        shape: ``(O, C, kH * kW)``.
        group: filters and channels of a group.
    """

def tensor_core_conv2d(
    *,
    device: int,
    stream: int,
    dtype: str,
    input: int,
    output: int,
    bias: int,
    residual: int,
    filter_order: int,
    block_offsets: int,
    columns: int,
    tile_offsets: int,
    tiles: int,
    partial: int,
    blocks: int,
    splits: int,
    input_shape: _Four,
    output_shape: _Four,
    stride: _Pair,
    padding: _Pair,
    dilation: _Pair,
    groups: int,
    activation: str,
    clamp: tuple[float, float],
    strips: int,
    pixels: int,
) -> None:
    """Convolve on tensor cores; sm_80 or later.

    Args:
        device: number of the GPU.
        stream: ``torch.cuda.Stream.cuda_stream``.
        dtype: of input, residual and output: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        input: address of ``[N, H, W, C]``, a multiple of 16.
        output: address of ``[N, outH, outW, O]``.
        bias: address of ``[O]``, float32, or 0.
        residual: address of an array like the output, or 0.
        filter_order: address of ``[O]``, int32, or 0.
        block_offsets: address of ``[blocks + 1]``, int32.
        columns: address of ``[columns, 4]``, int32.
        tile_offsets: address of ``[columns + 1]``, int32.
        tiles: address of the tiles.
        partial: address of ``[splits, N * outH * outW, blocks * filters of a block]``, float32,
            scratch memory; 0 where `splits` is 1.
        blocks: blocks of filters.
        splits: shares of every block's columns that are summed apart.
        input_shape: ``(N, C, H, W)``.
        output_shape: ``(N, O, outH, outW)``.
        stride: step between outputs, height first, like all pairs.
        padding: zeros above and on the left.
        dilation: step between taps.
        groups: convolution groups.
        activation: ``"none"``, ``"relu"``, ``"clamp"`` or ``"hardswish"``.
        clamp: least and greatest output of ``"clamp"``.
        strips: strips of 16 filters in a block: 4 or 8.
        pixels: output pixels of a thread block: 64 or 128, with 8 strips 128.
    """

def compressed_conv2d(
    *,
    device: int,
    stream: int,
    dtype: str,
    input: int,
    output: int,
    bias: int,
    residual: int,
    filter_order: int,
    block_offsets: int,
    columns: int,
    tile_offsets: int,
    tiles: int,
    partial: int,
    blocks: int,
    splits: int,
    input_shape: _Four,
    output_shape: _Four,
    stride: _Pair,
    padding: _Pair,
    dilation: _Pair,
    groups: int,
    activation: str,
    clamp: tuple[float, float],
    piece_masks: int,
) -> None:
    """Convolve on tensor cores with compressed weights; sm_80 or later.

    Args not listed: see `tensor_core_conv2d`.

    Args:
        tile_offsets: address of ``[columns + 1]``, int32, into pieces.
        tiles: address of the pieces.
        piece_masks: address of ``[columns, 4]``, int32, a multiple of 16.
    """

def simt_conv2d(
    *,
    device: int,
    stream: int,
    dtype: str,
    input: int,
    output: int,
    bias: int,
    residual: int,
    filter_order: int,
    block_offsets: int,
    columns: int,
    tile_offsets: int,
    tiles: int,
    partial: int,
    blocks: int,
    splits: int,
    input_shape: _Four,
    output_shape: _Four,
    stride: _Pair,
    padding: _Pair,
    dilation: _Pair,
    groups: int,
    activation: str,
    clamp: tuple[float, float],
    chunk: int,
    filter_masks: int,
    block_order: int,
) -> None:
    """Convolve with ordinary arithmetic; every GPU.

    Args not listed: see `tensor_core_conv2d`.

    Args:
        chunk: channels of a column: 8, 4 or 1.
        filter_masks: address of ``[columns, 2]``, int32.
        block_order: address of ``[blocks]``, int32.
    """

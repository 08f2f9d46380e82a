# SPDX-License-Identifier: MIT
"""The dense network in every runtime that is installed, ready to be timed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from l1sparse.convert.dense import dense_variants

Call = Callable[[], Tensor]


def dense_calls(
    network: nn.Module, example: Tensor, threads: int
) -> tuple[dict[str, Call], list[str]]:
    """Every way to run `network` on `example`: torch's own, ONNX Runtime, OpenVINO.

    Args:
        network: in evaluation mode.
        example: ``[N, 3, H, W]``, float32.
        threads: for the runtimes that are not torch's.

    Returns:
        Calls by name, and a note for each that does not run here.
    """
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calls: dict[str, Call] = dict(dense_variants(network, example))
    notes += [str(w.message) for w in caught if "dense variant" in str(w.message)]
    try:
        model = _onnx(network, example)
    except Exception as error:
        return calls, [*notes, f"no ONNX export: {_first_line(error)}"]
    for name, make in (("ONNX Runtime", _onnx_runtime), ("OpenVINO", _openvino)):
        try:
            calls[name] = make(model, example, threads)
        except Exception as error:
            notes.append(f"{name} does not run here: {_first_line(error)}")
    return calls, notes


def _onnx(network: nn.Module, example: Tensor) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The exporter that needs nothing but the package onnx; the network is plain enough for it.
        torch.onnx.export(network, (example,), file, dynamo=False)  # type: ignore[arg-type]
    return file.getvalue()


def _onnx_runtime(model: bytes, example: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: example.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _openvino(model: bytes, example: Tensor, threads: int) -> Call:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else processors with bfloat16 compute in that
    }
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model, b""), "CPU", settings
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(example.numpy()))

    def call() -> Tensor:
        request.infer()
        return torch.from_numpy(request.get_output_tensor().data)

    return call


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

# SPDX-License-Identifier: MIT
"""`export_onnx`: ONNX Runtime and OpenVINO give our outputs; what is refused, and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_network import DATA, StoredNetwork
from torch import Tensor, nn

import l1sparse
from l1sparse import SparseConv2d
from l1sparse.cli import main


class Activations(nn.Module):
    """Every activation, a residual, groups, dilation, a string as padding, and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SparseConv2d(3, 16, 3, padding="same", activation="hardswish")
        self.second = SparseConv2d(16, 16, 3, padding=2, dilation=2, activation="relu6")
        self.third = SparseConv2d(16, 16, 3, padding=1, groups=2, activation="relu")
        self.fourth = SparseConv2d(
            16, 24, 3, stride=2, group=(4, 4), activation="clamp", clamp=(-0.5, 1.0)
        )
        self.last = SparseConv2d(24, 4, 1)
        for module in self.children():
            module.mask = torch.rand(module.mask.shape) < 0.4

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        x = self.fourth(self.third(x, x))
        return self.last(nn.functional.max_pool2d(x, 2)).flatten(1)


class Branches(Activations):
    """Can't be traced by fx."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    by_hand = Activations().eval()
    packed = Activations().eval()
    for module in packed.children():
        module.drop_dense_weight()
    with pytest.warns(UserWarning, match="can't be traced"):
        untraced = l1sparse.accelerate(Branches(), torch.ones(2, 3, 12, 12))
    return {
        "by hand": by_hand,
        "packed": packed,
        "accelerated": l1sparse.accelerate(by_hand, torch.randn(2, 3, 12, 12)),
        "not traced": untraced,
        "version 1": l1sparse.load(DATA / "version-1.safetensors", StoredNetwork()),
        "version 2": l1sparse.load(DATA / "version-2.safetensors", StoredNetwork()),
    }


NAMES = ["by hand", "packed", "accelerated", "not traced", "version 1", "version 2"]


def onnx_runtime(path: Path, x: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])


def openvino(path: Path, x: Tensor) -> Tensor:
    openvino = pytest.importorskip("openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    return torch.from_numpy(np.array(compiled({"input": x.numpy()})[0]))


@pytest.mark.parametrize("run", [onnx_runtime, openvino])
@pytest.mark.parametrize("name", NAMES)
def test_other_runtimes_give_our_outputs(name: str, run: object, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    network = networks()[name]
    l1sparse.export_onnx(network, torch.ones(2, 3, 12, 12), tmp_path / "net.onnx")
    for batch in (2, 1, 5):
        x = torch.rand(batch, 3, 12, 12)
        with torch.inference_mode():
            expected = network(x)
        output = run(tmp_path / "net.onnx", x)  # type: ignore[operator]
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["by hand", "accelerated", "version 2"])
def test_the_operators_are_standard_and_the_sparsity_is_in_the_metadata(
    name: str, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    network = networks()[name]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    l1sparse.export_onnx(network, torch.ones(2, 3, 12, 12), tmp_path / "net.onnx")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (entry,) = [p.value for p in model.metadata_props if p.key == "l1sparse"]
    description = json.loads(entry)
    assert description["version"] == 1
    sparse = {n: m for n, m in network.named_modules() if isinstance(m, SparseConv2d)}
    assert set(description["layers"]) >= set(sparse)
    for layer, said in description["layers"].items():
        group = l1sparse.GroupShape.of(said["group"])
        weight = torch.from_numpy(weights[said["initializer"]].copy())
        packed = l1sparse.packed_info(l1sparse.pack(weight, None, group))
        assert packed.density == pytest.approx(said["density"])
        if layer in sparse:
            assert torch.equal(weight, sparse[layer].masked_weight())


def test_what_can_not_be_exported_is_named(tmp_path: Path) -> None:
    path, example, network = tmp_path / "net.onnx", torch.ones(1, 3, 12, 12), Activations()
    with pytest.raises(TypeError, match=r"^model: got str"):
        l1sparse.export_onnx("net", example, path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^example_input: got list"):
        l1sparse.export_onnx(network, [1], path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^model: is in training mode.*call model.eval\(\)"):
        l1sparse.export_onnx(network, example, path)
    network.eval().third.train()
    with pytest.raises(ValueError, match=r"^model: is in training mode \(third\)"):
        l1sparse.export_onnx(network, example, path)
    with pytest.raises(ValueError, match=r"^model: this Conv2d has no SparseConv2d"):
        l1sparse.export_onnx(nn.Conv2d(3, 3, 3).eval(), example, path)
    with pytest.raises(ValueError, match=r"^model: is a SparseConv2d itself"):
        l1sparse.export_onnx(network.first, example, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", [torch.ones(1, 4, 12, 12), torch.ones(1, 3, 12, 12).double()])
def test_an_example_that_does_not_fit_is_named(example: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=r"^example_input: shape \[1, .* does not fit this Activa"):
        l1sparse.export_onnx(Activations().eval(), example, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


class NoSuchOperator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = SparseConv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.conv(x))


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    network = NoSuchOperator().eval()
    with pytest.raises(RuntimeError, match=r"^model: torch.onnx can't export this NoSuch.*bessel"):
        l1sparse.export_onnx(network, torch.ones(1, 3, 4, 4), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'l1sparse\[runtimes\]'"):
        l1sparse.export_onnx(Activations().eval(), torch.ones(1, 3, 12, 12), tmp_path / "net.onnx")


ARGUMENTS = ["--model", "stored_network:StoredNetwork", "--input", "1,3,12,12", "--output"]


def test_the_command_writes_what_other_runtimes_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    file, output = DATA / "version-1.safetensors", tmp_path / "net.onnx"
    assert main(["export-onnx", str(file), *ARGUMENTS, str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"written: {output} (")
    x = torch.randn(1, 3, 12, 12)
    with torch.inference_mode():
        expected = l1sparse.load(file, StoredNetwork())(x)
    torch.testing.assert_close(onnx_runtime(output, x), expected, rtol=1e-4, atol=1e-4)


def test_the_command_tells_errors_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").write_bytes(b"noise, no safetensors at all")
    output = str(tmp_path / "net.onnx")
    assert main(["export-onnx", str(tmp_path / "bad"), *ARGUMENTS, output]) == 1
    told = capsys.readouterr().err
    assert "is damaged or no safetensors file" in told
    assert told.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["export-onnx", "--help"])
    assert "example: l1sparse export-onnx " in capsys.readouterr().out

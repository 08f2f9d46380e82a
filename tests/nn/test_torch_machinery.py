# SPDX-License-Identifier: MIT
"""`SparseConv2d` under what torch can do to a module besides calling it."""

from __future__ import annotations

import copy
import io
import multiprocessing
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize, prune
from torch.utils.cpp_extension import include_paths, library_paths

import l1sparse._C
from l1sparse import SparseConv2d, accelerate, pack, sparse_conv2d

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

AOTI_EXAMPLE = Path(__file__).parents[2] / "examples" / "aoti" / "run.cpp"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def pruned(**options: Any) -> SparseConv2d:
    layer = SparseConv2d(12, 10, 3, **{"padding": 1, **options})
    layer.mask &= torch.rand(layer.mask.shape) < 0.5
    return layer


def network(packed: bool = False) -> nn.Sequential:
    layers = [pruned(), pruned(activation="relu")]
    if packed:
        for layer in layers:
            layer.drop_dense_weight()
    return nn.Sequential(layers[0], nn.ReLU(), nn.Conv2d(10, 12, 1), layers[1]).eval()


INPUT = torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- torch.compile, torch.export, AOTInductor, torch.jit.trace -----------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_compile_has_no_graph_break_and_takes_dynamic_shapes(packed: bool) -> None:
    net = network(packed)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for shape in ((2, 12, 8, 8), (3, 12, 9, 11)):
            x = torch.randn(shape)
            torch.testing.assert_close(compiled(x), net(x), **CLOSE)
        if not packed:  # a weight that has changed is packed again
            net[0].weight.mul_(2)
            torch.testing.assert_close(compiled(x), net(x), **CLOSE)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_compile_gives_the_gradients_of_eager(sparse: bool, training: bool) -> None:
    net = network().train(training)
    for layer in (net[0], net[3]):
        layer.train_sparse(sparse)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (net, compiled):
        x = INPUT.clone().requires_grad_()
        grads.append(torch.autograd.grad(call(x).square().sum(), [x, *net.parameters()]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_compile_by_inductor(mode: str) -> None:
    net = nn.Sequential(pruned().drop_dense_weight(), nn.ReLU()).eval()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(net, fullgraph=True, mode=mode)
        torch.testing.assert_close(compiled(INPUT), net(INPUT), **CLOSE)


@pytest.mark.parametrize("packed", [False, True])
def test_export_with_dynamic_shapes_saves_and_loads(packed: bool) -> None:
    net, auto = network(packed), torch.export.Dim.AUTO
    with torch.no_grad():
        program = torch.export.export(net, (INPUT,), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        again = torch.export.load(file).module()
        for x in (INPUT, torch.randn(3, 12, 9, 11)):
            torch.testing.assert_close(again(x), net(x), **CLOSE)


@pytest.fixture(scope="module")
def cpp_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's C++ program, which has no Python in it."""
    program = tmp_path_factory.mktemp("aoti") / "run"
    folders = [f"-isystem{folder}" for folder in include_paths()]
    (libraries,) = library_paths()
    linked = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed"]
    linked += ["-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    command = ["g++", "-std=c++20", "-O0", "-Wall", str(AOTI_EXAMPLE), "-o", str(program)]
    subprocess.run([*command, *folders, *linked], check=True)
    return program


def test_an_aot_inductor_package_runs_in_python_and_in_cpp(
    tmp_path: Path, cpp_runner: Path
) -> None:
    net = accelerate(network(), INPUT)
    with torch.no_grad():
        program = torch.export.export(net, (INPUT,))
        path = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "net.pt2"),
            # Little to run, but headers of torch to compile.
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        expected = net(INPUT)
        loaded = torch._inductor.aoti_load_package(path)
        torch.testing.assert_close(loaded(INPUT), expected, **CLOSE)
    torch.save(INPUT, tmp_path / "input.pt")

    def run_in_cpp(operators: str) -> subprocess.CompletedProcess[str]:
        tensors = [str(tmp_path / name) for name in ("input.pt", "output.pt")]
        command = [str(cpp_runner), operators, path, *tensors]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run_in_cpp(l1sparse._C.__file__)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), expected, **CLOSE)
    without = run_in_cpp("nowhere.so")
    assert (without.returncode, "nowhere.so" in without.stderr) == (1, True)


def test_jit_trace_keeps_what_is_packed_and_takes_other_shapes() -> None:
    net = network(packed=True)
    with torch.no_grad():
        traced = torch.jit.trace(net, INPUT)
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        x = torch.randn(1, 12, 9, 11)
        torch.testing.assert_close(torch.jit.load(file)(x), net(x), **CLOSE)


# ---- torch.func, modes, tensors without data -----------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval", "train_sparse"])
def test_functional_call_and_func_grad(mode: str) -> None:
    net = network().train(mode != "eval")
    for layer in (net[0], net[3]):
        layer.train_sparse(mode == "train_sparse")
    parameters = dict(net.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (INPUT,)).square().sum()

    found = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(net(INPUT).square().sum(), list(parameters.values()))
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    other_weights = {name: 2 * value for name, value in parameters.items()}
    assert not torch.allclose(torch.func.functional_call(net, other_weights, (INPUT,)), net(INPUT))


@pytest.mark.parametrize("training", [False, True])
def test_vmap_over_the_batch(training: bool) -> None:
    net, x = network().train(training), torch.randn(3, 2, 12, 8, 8)
    expected = torch.stack([net(part) for part in x])
    torch.testing.assert_close(torch.func.vmap(net)(x), expected, **CLOSE)
    weight = torch.randn(4, 12, 3, 3)
    packed = pack(weight)
    found = torch.func.vmap(lambda part: sparse_conv2d(part, packed))(x)
    torch.testing.assert_close(found, torch.stack([F.conv2d(p, weight) for p in x]), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparse", [False, True])
def test_autocast_gives_its_dtype_and_float32_gradients(dtype: torch.dtype, sparse: bool) -> None:
    layer = pruned().train_sparse(sparse)
    with torch.autocast("cpu", dtype):
        output = layer(INPUT)
    output.float().sum().backward()
    assert output.dtype == dtype
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("sparse", [False, True])
def test_inference_mode_and_training_after_it(sparse: bool) -> None:
    layer = pruned().train_sparse(sparse)
    with torch.inference_mode():
        before = layer.eval()(INPUT)
        torch.testing.assert_close(layer.train()(INPUT), before, **CLOSE)
    layer(INPUT).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("mode", ["train", "eval", "train_sparse"])
def test_tensors_without_data_give_shapes(mode: str) -> None:
    meta = pruned().to("meta").train(mode != "eval").train_sparse(mode == "train_sparse")
    assert meta(INPUT.to("meta")).shape == (2, 10, 8, 8)
    with FakeTensorMode():
        fake = SparseConv2d(12, 10, 3).train(mode != "eval")
        assert fake(torch.randn(2, 12, 8, 8)).shape == (2, 10, 6, 6)


# ---- copies, files, processes --------------------------------------------------------------------


def test_state_dicts_load_with_weights_only_and_call_hooks() -> None:
    layer, called = pruned().eval(), []
    layer.register_state_dict_post_hook(lambda *_: called.append("saved"))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = pruned().eval()
    other.register_load_state_dict_pre_hook(lambda *_: called.append("loading"))
    other.register_load_state_dict_post_hook(lambda *_: called.append("loaded"))
    other.load_state_dict(state, strict=True)
    assert called == ["saved", "loading", "loaded"]
    assert torch.equal(other(INPUT), layer(INPUT))
    nn.Conv2d(12, 10, 3, padding=1).load_state_dict(state, strict=True)


def _answer(layer: SparseConv2d, connection: Any) -> None:
    torch.set_num_threads(2)
    connection.send(layer(INPUT).sum().item())


def test_a_fork_after_threads_ran_does_not_hang() -> None:
    layer = pruned().eval()
    with torch.no_grad():
        torch.set_num_threads(2)
        expected = layer(INPUT).sum().item()
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_answer, args=(layer, theirs))
        child.start()
        answered = ours.poll(30)
        child.join(5) if answered else child.kill()
    assert answered
    assert ours.recv() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_distributed_data_parallel(sparse: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = torch.distributed.TCPStore("127.0.0.1", port, 1, True)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        layer = pruned()
        alone = copy.deepcopy(layer)
        parallel = nn.parallel.DistributedDataParallel(layer.train_sparse(sparse))
        parallel(INPUT).square().sum().backward()
        alone(INPUT).square().sum().backward()
        torch.testing.assert_close(layer.weight.grad, alone.weight.grad, rtol=1e-4, atol=1e-3)
    finally:
        # Gloo's thread needs the interpreter's lock to let go of its work, and destroying the group
        # waits for that thread with the lock held: once in a while both wait for ever.
        time.sleep(0.2)
        torch.distributed.destroy_process_group()


# ---- masks of others -----------------------------------------------------------------------------


class HalfPruned(nn.Module):
    """Zeroes the second half of the channels."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(16) < 8).reshape(1, 16, 1, 1)


def test_from_dense_reads_parametrizations_prune_masks_and_plain_zeros() -> None:
    x = torch.randn(1, 16, 6, 6)
    convs = [nn.Conv2d(16, 8, 3) for _ in range(3)]
    parametrize.register_parametrization(convs[0], "weight", HalfPruned())
    prune.custom_from_mask(convs[1], "weight", HalfPruned()(torch.ones(8, 16, 3, 3)))
    with torch.no_grad():  # as Torch-Pruning, SparseML and others leave it
        convs[2].weight.mul_(HalfPruned()(torch.ones(8, 16, 3, 3)))
    for conv in convs:
        layer = SparseConv2d.from_dense(conv).eval()
        assert layer.density == 0.5
        assert set(dict(layer.named_parameters())) == {"weight", "bias"}
        torch.testing.assert_close(layer(x), conv(x), **CLOSE)


def test_modules_of_quantization_are_refused() -> None:
    import torch.ao.nn.qat as qat
    import torch.ao.nn.quantized as quantized
    from torch.ao.quantization import get_default_qat_qconfig

    for module in (
        quantized.Conv2d(8, 8, 3),
        qat.Conv2d(8, 8, 3, qconfig=get_default_qat_qconfig("x86")),
    ):
        with pytest.raises(TypeError, match=r"^conv: is torch\.ao.*quantiz.*expected a plain"):
            SparseConv2d.from_dense(module)

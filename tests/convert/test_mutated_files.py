# SPDX-License-Identifier: MIT
"""Files with changed bytes: an error or the right weights, never a crash, a hang or much memory.

`L1SPARSE_FUZZ_FILES` sets how many, `L1SPARSE_FUZZ_SEED` with which the first is made; `make
fuzz-files` runs 200,000.
"""

from __future__ import annotations

import json
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_network import DATA, StoredNetwork
from torch import Tensor, nn

import l1sparse
import l1sparse.runtime
from l1sparse import SparseConv2d
from l1sparse.convert import summarize

COUNT = int(os.environ.get("L1SPARSE_FUZZ_FILES", "400"))
SEED = int(os.environ.get("L1SPARSE_FUZZ_SEED", "0"))
FILES = ["version-1.safetensors", "version-2.safetensors"]
MOST_MEMORY = 64 * 2**20  # more than a thousand times the file
REMEMBERED = 16 * 2**10  # of each network that is traced, its source: by torch.fx, for tracebacks
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


def header_end(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """`content` with one to four changes, of a kind that suits what stands there."""
    changed = bytearray(content)
    end, pattern = header_end(content), content.index(b"L1SPARSE")
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        kind = chance.randrange(7)
        if kind == 0:  # a bit, anywhere
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        elif kind == 1:  # a byte of the header, which is JSON
            changed[chance.randrange(end)] = chance.choice(b'0123456789[]{}",:\\ -eNtrue')
        elif kind == 2:  # a number of a packed weight's header
            at = pattern + 4 * chance.randrange(16)
            width = chance.choice((2, 4, 8))
            changed[at : at + width] = (chance.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(
                width, "little"
            )
        elif kind == 3:  # a number where offsets and entries are
            at = pattern + 64 + 4 * chance.randrange(400)
            changed[at : at + 4] = chance.choice(NUMBERS[:5]).to_bytes(4, "little")
        elif kind == 4:  # the size of the header
            size = end - 8 + chance.choice((-1, 1, 8, 10**6, 2**62))
            changed[:8] = size.to_bytes(8, "little")
        elif kind == 5:  # a piece from elsewhere
            width, source = chance.randrange(1, 64), chance.randrange(len(changed))
            piece, at = changed[source : source + width], chance.randrange(len(changed))
            changed[at : at + len(piece)] = piece
        else:
            del changed[chance.randrange(len(changed)) :]
            break
        if len(changed) < len(content):
            break
    return bytes(changed)


def described(content: bytes, chance: random.Random) -> bytes:
    """`content` with one value of the description replaced, its JSON whole."""
    end = header_end(content)
    header = json.loads(content[8:end])
    description = json.loads(header["__metadata__"]["l1sparse"])
    place, steps = description, chance.randrange(1, 4)
    for _ in range(steps - 1):
        key = chance.choice(sorted(place)) if isinstance(place, dict) else 0
        if not isinstance(place[key], (dict, list)) or not place[key]:
            break
        place = place[key]
    key = chance.choice(sorted(place)) if isinstance(place, dict) else chance.randrange(len(place))
    values = (None, True, -1, 0, 1, 2**31 - 1, 10**30, 1e400, "", "first", "third", [], {}, [1, 8])
    place[key] = chance.choice((*values, [1, 10**9], [10**9, 1], [2**31 - 1, 2**31 - 1]))
    header["__metadata__"]["l1sparse"] = json.dumps(description)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """All parameters, those of packed weights dense, so that it does not matter how it runs."""
    found = {key: tensor for key, tensor in network.state_dict().items() if "packed" not in key}
    for name, module in network.named_modules():
        if isinstance(module, SparseConv2d):
            found[f"{name}.weight"] = module.masked_weight()
    return found


def tried(read: Callable[[Path], Any], path: Path) -> Any:
    """What `read` gives, or the error that it raises where that is the one it may raise."""
    try:
        return read(path)
    except ValueError as error:
        return error


@pytest.mark.parametrize("name", FILES)
def test_a_mutated_file_is_an_error_or_has_the_right_weights(name: str, tmp_path: Path) -> None:
    content, path = (DATA / name).read_bytes(), tmp_path / "mutated"
    network, x = StoredNetwork(), torch.randn(1, 3, 8, 8)
    expected = tensors_of(l1sparse.load(DATA / name, network))
    refused, read, peak = 0, 0, 0
    for number in range(COUNT // len(FILES)):
        chance = random.Random(f"{name} {SEED + number}")
        make = described if number % 4 == 0 else mutated
        path.unlink(missing_ok=True)  # whoever has the last one mapped keeps it whole
        path.write_bytes(make(content, chance))
        summarized, arrays = tried(summarize, path), tried(l1sparse.runtime.load, path)
        back = tried(lambda path: l1sparse.load(path, network), path)
        for result in (summarized, arrays, back):
            told = str(result) if isinstance(result, ValueError) else str(path)
            assert str(path) in told, f"{name} {SEED + number}: {result!r}"
        if isinstance(back, ValueError):
            refused += 1
        else:
            read += 1
            for key, tensor in tensors_of(back).items():
                right = expected[key]
                assert torch.equal(tensor, right), f"{name} {SEED + number}: {key}"
            with torch.inference_mode():
                back(x)
        if number == 20:  # what is imported and allocated once is there
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refused > read > 0 or COUNT < 100
    if peak:
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        assert grown < MOST_MEMORY + REMEMBERED * (refused + read)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    content, path = (DATA / FILES[1]).read_bytes(), tmp_path / "cut"
    network = StoredNetwork()
    for end in {*range(0, header_end(content), 97), *range(0, len(content), 331)}:
        path.unlink(missing_ok=True)
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"^path: .*cut' is damaged or no safetensors"):
            l1sparse.load(path, network)


def test_a_weight_of_another_shape_is_refused_before_there_is_memory_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wide() -> nn.Module:
        return nn.Sequential(SparseConv2d(4096, 8, 1)).eval()

    net = wide()
    net[0].mask[:] = False
    l1sparse.save(net, tmp_path / "wide")

    def never(packed: Tensor) -> Tensor:
        raise AssertionError("unpacked")

    monkeypatch.setitem(SparseConv2d._accept_packed.__globals__, "unpack", never)
    with pytest.raises(ValueError, match=r"holds a weight of shape \(8, 4096, 1, 1\), expected"):
        l1sparse.load(tmp_path / "wide", nn.Sequential(nn.Conv2d(8, 8, 1)))

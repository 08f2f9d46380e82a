# SPDX-License-Identifier: MIT
"""Run by `aarch64_counts.py` under qemu: convolutions, between marks that its plugin counts at."""

from __future__ import annotations

import json
import os
import sys

import torch

from candidates import LAYOUTS, dense_candidates, our_candidates
from l1sparse import GroupShape
from l1sparse.build import build_info
from l1sparse.ops import pack
from masks import random_cases
from suites import SUITES


def main() -> None:
    """Convolutions of a suite, one line of JSON after each on stdout."""
    suite, group, sparsities = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    print(json.dumps({"torch": torch.__version__, "chosen": build_info()["chosen"]}), flush=True)
    cases, _ = random_cases(SUITES[suite], [GroupShape.of(group)], sparsities, 0)
    seen = set()
    with torch.inference_mode():
        for case in cases:
            layer, weight = case.layer, case.weight()
            input = torch.randn(1, layer.in_channels, layer.size, layer.size)
            candidates = [
                ("ours", x)
                for x in our_candidates(layer, input, pack(weight, None, case.group), [*LAYOUTS])
            ]
            if layer not in seen:  # dense does not depend on what is pruned
                candidates += [
                    ("dense", x) for x in dense_candidates(layer, input, weight, torch.float32)
                ]
            seen.add(layer)
            for kind, candidate in candidates:
                try:
                    (call,) = candidate.calls(0)
                    call()
                except RuntimeError:  # a way that this torch does not have
                    continue
                os.getppid()
                call()
                os.getppid()
                counted = {
                    "layer": str(layer),
                    "count": layer.count,
                    "macs": layer.flops // 2,
                    "sparsity": case.sparsity if kind == "ours" else 0,
                    "kind": kind,
                    "name": candidate.name,
                }
                print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    main()

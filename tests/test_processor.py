"""Threads wait briefly, freed memory is used again, and attention by plain products equals the fused kernel."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from silc import processor
from silc.models.config import ImageTowerConfig, TextTowerConfig
from silc.models.image import ImageTower
from silc.models.text import TextTower
from silc.processor import SPINS, choose_attention, wait_briefly

CPU = torch.device("cpu")
PAGES = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: large pages are too few to be counted
import numpy as np
from silc.processor import keep_freed_memory, return_large_memory
if sys.argv[1] != "leave":
    keep_freed_memory()
if sys.argv[1] == "return":
    return_large_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(4):
    before = faults()
    for megabytes in (64, 1, 7):
        np.ones(megabytes << 17)
print(faults() - before)
"""


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("processor\t: 0\nmodel name\t: A Chip @ 2.0GHz \nprocessor\t: 1\nmodel name\t: B\n", "A Chip @ 2.0GHz"),
        ("processor\t: 0\nCPU architecture: 8\n", platform.machine()),
        (None, platform.machine()),
    ],
)
def test_a_processor_has_a_name(said: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    if said is not None:
        file.write_text(said)
    monkeypatch.setattr(processor, "CPUINFO", file)
    assert processor.name() == name


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {"GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_a_persons_setting_is_kept(
    given: dict[str, str], told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == told


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
def test_openmp_reads_what_the_command_line_told() -> None:
    """GNU OpenMP shows its settings as torch loads it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
    done = subprocess.run(
        [sys.executable, "-c", "from silc.cli import main; main(['recipes']); import torch"],
        env=environment | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch has another OpenMP here")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told on Linux")
def test_pages_are_not_asked_for_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 50
    assert faults("return") > 10_000
    assert faults("leave") > 10_000  # 64 MB are 16,384 pages


@pytest.mark.parametrize("pool", ["map", "cls"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_image_tower(pool: str, half: bool) -> None:
    tower = ImageTower(ImageTowerConfig(size=32, patch=8, width=32, depth=2, heads=2, mlp=64, pool=pool), 32)
    _same(tower, torch.randn(3, 3, 24, 24), half)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_text_tower(causal: bool, half: bool) -> None:
    config = TextTowerConfig(length=9, width=32, depth=2, heads=4, mlp=64, causal=causal)
    _same(TextTower(config, 32, vocab_size=50, eos_id=1), torch.randint(2, 50, (5, 9)), half)


def test_only_bfloat16_on_a_cpu_goes_without_the_fused_kernel() -> None:
    tower = TextTower(TextTowerConfig(length=4, width=8, depth=1, heads=2, mlp=8), 8, vocab_size=9, eos_id=1)
    (attention,) = (m for m in tower.modules() if hasattr(m, "fused_attn"))
    for device, half, fused in (("cpu", True, False), ("cpu", False, True), ("cuda", True, True)):
        choose_attention(tower, torch.device(device), half=half)
        assert attention.fused_attn is fused


def _same(tower: torch.nn.Module, given: torch.Tensor, half: bool) -> None:
    found = []
    for plain in (False, True):
        choose_attention(tower, CPU, half=plain)
        tower.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = tower(given)
        out.float().square().sum().backward()
        found.append([out.detach().float(), *(p.grad.clone() for p in tower.parameters() if p.grad is not None)])
    tolerance = 5e-2 if half else 1e-5
    for fused, plain in zip(*found, strict=True):
        assert (fused - plain).abs().max() <= tolerance * fused.abs().max()

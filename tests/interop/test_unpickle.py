"""The way out that is given where a pickle is refused works on what people have."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from silc.errors import BadInput
from silc.interop.files import read_safetensors
from silc.interop.unpickle import main

W = torch.arange(6.0).view(2, 3)
STATE = {"visual.proj": W, "logit_scale": torch.tensor(2.0)}
FORMS: dict[str, Any] = {
    "a state dict": STATE,
    "open_clip's training checkpoint": {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{name}": value for name, value in STATE.items()},
        "optimizer": {"state": {0: {"exp_avg": W}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.98)}]},
        "scaler": {"scale": 2.0},
    },
    "compiled": {"state_dict": {f"_orig_mod.{name}": value for name, value in STATE.items()}},
    "under model": {"model": STATE, "step": 4},
    "with plain values": {**STATE, "epoch": 2},
    "parameters": {name: torch.nn.Parameter(value) for name, value in STATE.items()},
    "not contiguous": {"visual.proj": W.t().contiguous().t(), "logit_scale": STATE["logit_scale"]},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_weights_come_out(form: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(form, tmp_path / "model.pt")
    with pytest.raises(BadInput) as refused:
        read_safetensors(tmp_path / "model.pt")
    line = re.search(r"`python -m silc\.interop\.unpickle (.+)`", str(refused.value))
    assert line
    args = line[1].replace("FILE", str(tmp_path / "model.pt")).replace("OUT", str(tmp_path / "out")).split()
    assert main(args) == 0
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_tied_weights_come_out_twice(tmp_path: Path) -> None:
    torch.save({"a": W, "b": W}, tmp_path / "tied.bin")
    assert main([str(tmp_path / "tied.bin"), str(tmp_path / "tied.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "tied.safetensors")["b"], W)


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("canary",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Payload(), "without running its code"),
        ([W], "no state dict"),
        ({"epoch": 1}, "no state dict"),
        (None, "cannot"),
    ],
)
def test_others_are_refused_in_one_line(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is None:
        Path("x.pt").write_bytes(b"<html>no such file</html>")
    else:
        torch.save(content, "x.pt")
    assert main(["x.pt", "x.safetensors"]) == 2
    assert said in capsys.readouterr().err
    assert not Path("canary").exists()
    assert not Path("x.safetensors").exists()
    assert main(["x.pt", "x.bin"]) == 2
    assert main([]) == 2

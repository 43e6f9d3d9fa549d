"""The path of someone new: own shards, a look at them, a run that is interrupted, continued and lengthened, an own
evaluation set, and a photograph from a phone. Each step is what the documents say to type."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from silc import checkpoint
from silc.cli import main
from silc.objective import SilcObjective
from silc.training.log import history
from tests.data.conftest import encoded, write_tar

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (220, 200, 40)}
SHARDS, RUN = "shards/{00000..00001}.tar", "out/mine"
SMALL = [
    *("--model.image.size", "16", "--model.image.patch", "8", "--model.image.width", "32", "--model.image.depth", "1"),
    *("--model.image.heads", "2", "--model.text.width", "32", "--model.text.depth", "1", "--model.text.heads", "2"),
    *(
        "--model.embed-dim",
        "32",
        "--model.head.prototypes",
        "24",
        "--data.crops.local-size",
        "8",
        "--data.vocab-size",
        "300",
    ),
    *("--train.batch-size", "8", "--train.log-every", "2 steps", "--train.save-every", "never"),
]
"""A model for two slow cores and a test's patience; a person would leave this out."""
SILENCE = 10.0
"""Seconds."""


def picture(number: int, size: tuple[int, int] = (64, 48)) -> tuple[Image.Image, str]:
    """A disc of one colour on another, and its caption."""
    names = list(COLOURS)
    ground, disc = names[number % 4], names[(number + 1 + number // 4 % 3) % 4]
    image = Image.new("RGB", size, COLOURS[ground])
    ImageDraw.Draw(image).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), COLOURS[disc])
    return image, f"a {disc} disc on {ground}"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with own shards, an own evaluation set of the simplest layout, and a phone's photograph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        members = []
        for number in range(12 * shard, 12 * shard + 12):
            image, caption = picture(number)
            members += [(f"{number:05d}.jpg", encoded(image)), (f"{number:05d}.txt", caption.encode())]
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", members)
    folder = tmp_path / "data" / "classification" / "grounds"
    for number in range(8):
        file = folder / "test" / list(COLOURS)[number % 4] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number)[0].save(file)
    (folder / "classes.txt").write_text("\n".join(COLOURS) + "\n")
    return tmp_path


def photograph(file: Path, size: tuple[int, int]) -> None:
    """A JPEG as a phone held upright stores it: lying on its side, with the turn in its EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, size)[0].save(file, quality=90, exif=exif)


def predicted(file: Path, size: tuple[int, int]) -> None:
    """Classify and segment a photograph of this stored size; what comes out is upright."""
    photograph(file, size)
    names = ["--names", "red, green, blue"]
    assert main(["predict", "classify", RUN, str(file), *names, "--out", "out/classes.json"]) == 0
    (found,) = json.loads(Path("out/classes.json").read_text())["images"]
    assert set(found["probabilities"]) == {"red", "green", "blue"}
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert main(["predict", "segment", RUN, str(file), *names, "--out", "out/masks"]) == 0
    (labels,) = Path("out/masks").rglob("*.labels.png")
    with Image.open(labels) as image:
        assert image.size == size[::-1]
        assert np.asarray(image).max() < 3


def test_the_way_of_someone_new(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", SHARDS, "--out", "out/check", "--workers", "0"]) == 0
    assert Path("out/check/report.html").is_file()
    assert not json.loads(Path("out/check/check.json").read_text())["causes"]

    steps, after_step = [0], SilcObjective.after_step

    def ctrl_c_at_three(*args: object) -> None:
        after_step(*args)  # type: ignore[arg-type]
        steps[0] += 1
        if steps[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SilcObjective, "after_step", ctrl_c_at_three)
    begin = ["train", "silc_c-tiny", "--data.train", SHARDS, "--data.workers", "0", "--out", RUN, *SMALL]
    begin += ["--train.duration", "6 steps"]
    assert main(begin) == 130
    out, err = capfd.readouterr()
    assert "reading 24 pairs" in out
    assert re.search(r"saved step [34] of 6; `--resume auto` goes on from there", err)  # ranks agree a step later
    assert len(checkpoint.find(Path(RUN, "checkpoints"))) == 1

    assert main([*begin, "--resume", "auto"]) == 0
    assert [record["step"] for record in history(Path(RUN))][-1] == 6
    longer = ["train", f"{RUN}/config.yaml", "--resume", "auto", "--extend", "--train.duration", "8 steps"]
    assert main(longer) == 0
    assert "extended from 6 to 8 steps" in capfd.readouterr().out
    assert history(Path(RUN))[-1]["step"] == 8

    assert main(["eval", RUN, "--root", "data", "--templates", "plain"]) == 0
    records = json.loads(Path(RUN, "scores.json").read_text())
    assert {(record["dataset"], record["weights"]) for record in records} == {
        ("grounds", "student"),
        ("grounds", "teacher"),
    }
    assert Path(RUN, "report.html").is_file()
    predicted(place / "phone.jpg", (64, 48))


# --- by real processes


def cpu_seconds(pid: int) -> float:
    """Of a process itself, so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines(*args: str) -> list[str]:
    """What `silc ARGS` prints, line by line; it ends well, and is never silent for longer than `SILENCE`.

    A machine that has other things to do stretches the clock, so a silence counts when the process also worked as long;
    one in which it only waits may be six times as long.
    """
    found, heard, worked = list[str](), time.monotonic(), 0.0
    command = [sys.executable, "-u", "-m", "silc", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now, used = time.monotonic(), cpu_seconds(process.pid)
            silent = now - heard > SILENCE and (used - worked > SILENCE or now - heard > 6 * SILENCE)
            if silent:
                process.kill()
            assert not silent, f"{now - heard:.0f} s of silence before: {line}"
            heard, worked = now, used or worked
            found.append(line.rstrip())
    assert process.returncode == 0, found
    return found


ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "silc", *sys.argv[1:]])
"""


def interrupted_on_a_terminal(args: list[str]) -> tuple[str, int]:
    """What a terminal shows of `silc ARGS` until Ctrl-C is typed, once time left is shown; and the exit code."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown, typed = "", False
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way to say that nobody holds the other end
            break
        if not part:
            break
        shown += part.decode(errors="replace")
        if not typed and re.search(r"\d+m\d\ds left", shown):
            os.write(ours, b"\x03")
            typed = True
    os.close(ours)
    return shown, process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="CPU time of a process is read from /proc")
def test_the_same_way_by_real_processes(place: Path) -> None:
    said = lines("data", "check", SHARDS, "--out", "out/check", "--workers", "1")
    assert "24 of 24 samples can be used" in said

    begin = ["train", "silc_c-tiny", "--data.train", SHARDS, "--data.workers", "1", "--out", RUN, *SMALL]
    begin += ["--train.duration", "200 steps"]
    shown, code = interrupted_on_a_terminal(begin)
    assert code == 130, shown
    for part in (r"contrastive \d\.\d+", r"lr \d\.\d+e-\d+", "press Ctrl-C again to leave at once"):
        assert re.search(part, shown), shown
    (saved,) = re.findall(r"saved step (\d+) of 200", shown)
    assert 0 < int(saved) < 200

    said = lines(*begin, "--resume", "auto")
    assert any(re.search(r"step \d+/200 .* left", line) for line in said), said
    first = next(int(found[1]) for line in said if (found := re.match(r"step (\d+)/200", line)))
    assert int(saved) < first <= int(saved) + 2
    longer = ["train", f"{RUN}/config.yaml", "--resume", "auto", "--extend", "--train.duration", "220 steps"]
    assert any("extended from 200 to 220 steps" in line for line in lines(*longer))
    assert any("grounds-zs" in line for line in lines("eval", RUN, "--root", "data"))
    predicted(place / "phone.jpg", (4032, 3024))  # 12 megapixels

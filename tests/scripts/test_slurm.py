"""scripts/slurm: what is started; a notice saves the run and puts the job back. Slurm's commands are played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from silc import checkpoint
from silc import config as configs
from silc.config import Config

SCRIPTS = Path(__file__).parents[2] / "scripts" / "slurm"
LAUNCHERS = ("one-node", "many-nodes")
# Starts what it is given once for each node, passes signals on and ends as they end, as srun does.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
trap 'kill -TERM "${tasks[@]}" 2>/dev/null' TERM
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do "$@" & tasks+=($!); done
worst=0
for task in "${tasks[@]}"; do
  while true; do
    wait "$task"; status=$?
    kill -0 "$task" 2>/dev/null || break
  done
  ((status > worst)) && worst=$status
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then echo localhost; echo localhost; else echo "$@" >> "$PLACE/requeued"; fi
"""
# Writes down its arguments and runs until it is told to stop, then as torchrun does exits with 1; or until it is done.
TORCHRUN = """#!/usr/bin/env bash
trap 'echo told >> "$PLACE/told"; exit 1' TERM
echo "$@" >> "$PLACE/started"
for ((i = 0; i < 100; i++)); do [ -e "$PLACE/done" ] && exit "$(cat "$PLACE/done")"; sleep 0.1; done
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a launcher as its job, with commands of Slurm (and others given) that are not Slurm's."""

    def start(launcher: str, *args: str, nodes: int = 2, **commands: str) -> subprocess.Popen[str]:
        played = tmp_path / "bin"
        played.mkdir(exist_ok=True)
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, **commands}.items():
            (played / name).write_text(text)
            (played / name).chmod(0o755)
        job = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": str(nodes)}
        path = f"{played}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | job | {"SLURM_GPUS_ON_NODE": "4", "PLACE": str(tmp_path), "PATH": path}
        env |= {"OMP_NUM_THREADS": "1", "RANKS_PER_NODE": "1" if launcher == "many-nodes" else "2"}
        if "torchrun" in commands:
            del env["RANKS_PER_NODE"]
        command = ["bash", str(SCRIPTS / f"{launcher}.sh"), *args]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return start


def wait_for(condition: Callable[[], bool], job: subprocess.Popen[str], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_are_bash_and_ask_for_a_notice(launcher: str) -> None:
    file = SCRIPTS / f"{launcher}.sh"
    assert subprocess.run(["bash", "-n", str(file)], check=False).returncode == 0
    lines = file.read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@90", "#SBATCH --open-mode=append"} <= set(options)
    # sbatch reads options up to the first command.
    assert lines.index(options[-1]) < lines.index("set -euo pipefail")


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_notice_is_passed_on_and_the_job_put_back(
    launcher: str, number: int, slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = slurm(launcher, "silc_c", "--out", "run", torchrun=TORCHRUN)
    nodes = 2 if launcher == "many-nodes" else 1
    started = tmp_path / "started"
    wait_for(lambda: started.is_file() and len(started.read_text().splitlines()) == nodes, job)
    for line in started.read_text().splitlines():
        assert line.endswith("--nproc-per-node 4 --module silc train silc_c --out run --resume auto") or (
            "--nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint localhost:20042 --rdzv-id 42-0" in line
            and line.endswith("--module silc train silc_c --out run --resume auto")
        )
    job.send_signal(number)
    job.communicate(timeout=30)
    assert job.returncode != 0
    assert (tmp_path / "told").read_text().splitlines() == ["told"] * nodes
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("code", [0, 3])
def test_an_end_of_its_own_is_the_jobs_end(
    launcher: str, code: int, slurm: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "done").write_text(str(code))
    job = slurm(launcher, "silc_c", torchrun=TORCHRUN)
    job.communicate(timeout=30)
    assert job.returncode == code
    assert not (tmp_path / "requeued").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_told_to_stop_goes_on_in_its_next_start(
    launcher: str, slurm: Callable[..., subprocess.Popen[str]], small: Callable[..., Config], tmp_path: Path
) -> None:
    """Two real ranks, on one node or on two: saved on notice, finished by the requeued job, no step twice."""
    configs.save(small("silc_c", duration="400 steps"), tmp_path / "run.yaml")
    out, again = tmp_path / "run", (str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run"))

    def steps() -> list[int]:
        log = out / "metrics.jsonl"
        return [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.is_file() else []

    job = slurm(launcher, *again)
    wait_for(lambda: len(steps()) > 2, job)
    job.send_signal(signal.SIGUSR1)
    said = job.communicate(timeout=120)[0]
    assert job.returncode != 0, said
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    newest, damaged = checkpoint.newest_intact(out / "checkpoints")
    assert newest is not None
    assert not damaged
    stopped = checkpoint.read(newest).state["progress"]["step"]
    assert 2 < stopped < 400
    job = slurm(launcher, *again)
    said = job.communicate(timeout=240)[0]
    assert job.returncode == 0, said
    assert steps() == list(range(1, 401))

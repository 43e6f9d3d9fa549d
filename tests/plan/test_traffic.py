"""Bytes that two training processes really send, read from the interface that only they use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from silc import recipes
from silc.config import override
from silc.plan import gpus, project
from silc.plan.project import Sharding

STEPS = 6
TRAIN = """
import sys
from pathlib import Path
from silc import recipes
from silc.pretraining import run
from silc.config import override
from silc.objective import SilcObjective

after_step = SilcObjective.after_step

def counted(self, out, hyper):
    after_step(self, out, hyper)
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    if self.world.rank == 0:
        print("sent", line.split()[9], flush=True)

SilcObjective.after_step = counted
run.train(override(recipes.get(sys.argv[1]), eval(sys.argv[2])))
"""
NETWORK_OF_ITS_OWN = ["unshare", "--net", "bash", "-c", 'ip link set lo up && exec "$@"', "-"]


def can_have_a_network_of_its_own() -> bool:
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    return subprocess.run([*NETWORK_OF_ITS_OWN, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_have_a_network_of_its_own(), reason="network namespaces need root, Linux and iproute2")
@pytest.mark.parametrize(
    ("name", "sharding"),
    [
        ("silc_c-tiny", "none"),
        ("silc_c-tiny", "full"),
        ("silc_s-tiny", "none"),
    ],
)
def test_two_processes_send_what_was_planned(name: str, sharding: Sharding, tmp_path: Path) -> None:
    changed = {
        **{"out": str(tmp_path / "run"), "batch_size": 64, "precision": "float32", "data.workers": 0},
        **{"duration": f"{STEPS} steps", "log_every": "1k steps", "save_every": "never", "model.text.vocab_size": 600},
        **{"sharding": sharding},
    }
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*NETWORK_OF_ITS_OWN, *torchrun, str(script), name, repr(changed)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("sent")]
    assert len(counts) == STEPS
    a_step = (counts[-1] - counts[1]) / (STEPS - 2)  # DDP orders its buckets anew after the first
    plan = project.plan(override(recipes.get(name), changed), gpu=gpus.get("h100"), gpus=2)
    both = [2 * project.sent(c, 2) for c in plan.traffic(sharding, 2)]
    if sharding == "full":  # gloo has no reduce-scatter: it sums everything and keeps a share
        both += [2 * project.sent(c, 2) for c in plan.traffic(sharding, 2) if c.kind == "reduce-scatter"]
    # On top: TCP's headers, and what the loop's ranks agree on.
    assert sum(both) <= a_step <= 1.01 * sum(both)

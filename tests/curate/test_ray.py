"""Ray for real: two actors on this machine, one killed in the middle of a shard, then the driver; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.data.conftest import sample, write_tar

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")
pytest.importorskip("py3langid")
SHARDS, EACH = 14, 150


def command(shards: Path, out: Path, model: Path, *flags: str) -> list[str]:
    words = ["data", "score", f"{shards}/*.tar", "--out", str(out), "--model", str(model), "--device", "cpu", *flags]
    return [sys.executable, "-m", "silc", *words]


def actors() -> list[int]:
    """Processes of our actors that are at work."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"ray::Actor"):
            found.append(int(process.name))
    return found


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not there():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_actor_and_killed_driver_lose_nothing(finished: Callable[..., Path], tmp_path: Path) -> None:
    shards, out, model = tmp_path / "shards", tmp_path / "ray", finished("silc_c")
    shards.mkdir()
    for number in range(SHARDS):
        members = [member for one in range(EACH) for member in sample(number * EACH + one)]
        write_tar(shards / f"{number:05d}.tar", members)
    one = subprocess.run(command(shards, tmp_path / "one", model, "--threads", "1"), check=True, capture_output=True)
    assert f"{SHARDS * EACH:,} samples of {SHARDS} shards" in one.stdout.decode()
    before = set(actors())
    on_ray = command(shards, out, model, "--threads", "1", "--workers", "2", "--ray", "local")
    driver = subprocess.Popen(on_ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    num_done = lambda: len(list(out.glob("*.parquet")))  # noqa: E731
    wait_for(lambda: num_done() >= 2, driver)
    victim = next(iter(set(actors()) - before))
    os.kill(victim, signal.SIGKILL)
    killed_at = num_done()
    wait_for(lambda: num_done() >= killed_at + 3, driver)  # the other goes on
    # until one is in its place, or hardly any work is left for it
    wait_for(lambda: len(set(actors()) - before - {victim}) == 2 or num_done() >= SHARDS - 4, driver)
    driver.kill()
    driver.wait()
    end = time.monotonic() + 120
    while set(actors()) - before:  # they notice, and may finish a shard until then
        assert time.monotonic() < end
        time.sleep(0.1)
    assert num_done() < SHARDS
    times = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    again = subprocess.run(on_ray, check=True, capture_output=True, timeout=400).stdout.decode()
    assert f"{len(times)} of {SHARDS} shards are scored already" in again
    assert all((out / name).stat().st_mtime_ns == then for name, then in times.items())
    theirs, ours = (
        {file.name: file.read_bytes() for file in folder.glob("*.parquet")} for folder in (tmp_path / "one", out)
    )
    assert ours == theirs
    keys = [key for file in sorted(out.glob("*.parquet")) for key in pq.read_table(file).column("uid").to_pylist()]
    assert len(keys) == len(set(keys)) == SHARDS * EACH


@pytest.mark.slow
def test_a_shard_that_kills_its_actor_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor is started again with its shard; shards that it had ahead are none the worse for it."""
    from silc.curate import on_ray
    from silc.curate.scorer import Outcome, ScorePlan

    class Mortal:
        def __init__(self, plan: ScorePlan) -> None:
            self.out = plan.out

        def score(self, shard: Path) -> Outcome:
            tries = self.out / shard.stem
            with tries.open("a") as handle:
                handle.write("x")
            if shard.stem == "always" or (shard.stem == "once" and tries.stat().st_size == 1):
                os._exit(1)
            return Outcome(shard.name, rows=1)

    monkeypatch.setattr(on_ray, "Actor", Mortal)
    names = ["a", "once", "always", "b", "c", "d", "e"]
    shards = [tmp_path / f"{name}.tar" for name in names]
    outcomes = list(on_ray.run_on_ray(shards, ScorePlan(tmp_path), 2, "local"))
    found = {Path(one.shard).stem: one for one in outcomes}
    assert len(outcomes) == len(names)
    assert {name for name, one in found.items() if one.rows} == {*names} - {"always"}
    assert "3 actors were lost at this shard" in found["always"].fault
    assert len((tmp_path / "once").read_text()) >= 2


def test_an_actor_whose_node_is_lost_gets_the_core_of_one_without_work() -> None:
    """Of a cluster that has no other core: without a handle an actor ends, as Ray has it. Ray is a stand-in here."""
    from silc.curate.on_ray import _dealt_out
    from silc.curate.scorer import Outcome

    alive = weakref.WeakSet[Any]()

    class Handle:
        def __init__(self, lost: bool) -> None:
            ref = namedtuple("ref", "shard lost")  # a task's, which keeps no actor alive
            self.score = SimpleNamespace(remote=lambda shard: ref(shard, lost))
            alive.add(self)

    class Ray:
        exceptions = SimpleNamespace(RayTaskError=KeyError, RayActorError=IndexError)

        def wait(self, refs: list[Any]) -> tuple[list[Any], list[Any]]:
            able = [ref for ref in refs if not ref.lost or len(alive) == 1]
            assert able, "nobody will ever answer"
            return able[:1], [ref for ref in refs if ref is not able[0]]

        def get(self, ref: Any) -> Outcome:
            return Outcome(ref.shard.name, rows=1)

    made = iter([True, False])
    shards = [Path(f"{number}.tar") for number in range(7)]
    outcomes = list(_dealt_out(Ray(), shards, lambda: Handle(next(made)), 2))
    assert sorted(one.shard for one in outcomes) == [shard.name for shard in shards]
    assert not alive


def test_actors_share_what_is_free() -> None:
    from silc.curate.on_ray import share_of_gpu
    from silc.errors import BadInput

    free = {"CPU": 16.0, "GPU": 4.0}
    assert [share_of_gpu(free, free, workers, "auto") for workers in (2, 4, 5, 16)] == [1, 1, 1 / 2, 1 / 4]
    no_gpu = {"CPU": 16.0}
    assert share_of_gpu(free, free, 16, "cpu") == share_of_gpu(no_gpu, no_gpu, 16, "auto") == 0
    with pytest.raises(BadInput, match="16 free cores, fewer than --workers 17"):
        share_of_gpu(free, free, 17, "auto")
    with pytest.raises(BadInput, match="all GPUs of the cluster are taken"):
        share_of_gpu(no_gpu, free, 1, "auto")


def test_a_cluster_that_does_not_begin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from silc.curate.on_ray import run_on_ray
    from silc.curate.scorer import ScorePlan
    from silc.errors import BadInput

    def slow(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(BadInput, match="--ray local: The current node timed out during startup; run it again"):
        list(run_on_ray([tmp_path / "0.tar"], ScorePlan(tmp_path), 1, "local"))
    with pytest.raises(BadInput, match="`ray start --head` starts a cluster"):
        list(run_on_ray([tmp_path / "0.tar"], ScorePlan(tmp_path), 1, "auto"))

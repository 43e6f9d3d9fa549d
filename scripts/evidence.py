"""A queue of small runs that answer questions about the method: one thread a run, two at a time, in the background.

    python scripts/evidence.py run       # begin what is not finished, in the queue's order; `--stay`: in this terminal
    python scripts/evidence.py status    # finished, running, waiting
    python scripts/evidence.py stop      # end the runs under way; they start again with the next `run`
    python scripts/evidence.py table     # the section of docs/results.md, and its plots

`docs/evidence/queue.yaml` lists studies: a question, what was predicted, arms (each a recipe and fields), which
arm each is compared with, seeds, columns. A finished run leaves docs/evidence/STUDY/ARM/seed-N.json: what it was told,
what it cost, every score. Weights stay under out/evidence. Seeds differ by more than effects do, so arms are compared
seed by seed: one seed gives both the same start and the same data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evidence_queue import OUT, QUEUE, ROOT, Run, runs, studies
from evidence_table import cpu_hours, write_tables

from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.durable import write_whole
from silc.errors import BadInput
from silc.training.log import history

AT_ONCE = 2
LONGEST = 2 * 3600
"""Seconds after which a run is given up."""
TRIES = 2
"""Of a run that fails."""
KEPT = ("dataset", "task", "weights", "metrics", "chance", "examples_seen", "train_flops")
"""Of each record; protocols are the evaluation's own."""


def result(run: Run) -> Path:
    """What a finished run leaves."""
    return QUEUE.parent / f"{run.name}.json"


def carry_out() -> None:
    """Everything that is not finished, AT_ONCE at a time."""
    waiting = [run for run in runs(studies()) if not result(run).exists()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_try, waiting))


def _try(run: Run) -> None:
    if taken := _of_another_study(run):
        _write(run, taken)
        print(f"{run.name} is that of {taken['study']}/{taken['arm']}", flush=True)
        return
    for _ in range(TRIES):
        if problem := _train_and_score(run):
            print(f"{run.name}: {problem}", flush=True)
        else:
            return


def _train_and_score(run: Run) -> str:
    """One run from its start, one thread; why it did not finish, or nothing."""
    config = run.config()
    out = Path(config.out)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    told, log, scores = (out.parent / f"{out.name}.{end}" for end in ("yaml", "log", "scores.json"))
    configs.save(config, told)
    tasks = ",".join(sorted({column.partition("/")[0] for column in run.study.columns}))
    evaluation = ["--root", str(_sets(config)), "--tasks", tasks, "--out", str(scores)]
    began, cost = time.time(), 0.0
    print(f"{time.strftime('%H:%M')} {run.name} begins", flush=True)
    with log.open("w") as lines:
        for command in (["train", str(told)], ["eval", str(out), *evaluation, "--num-pictures", "0", "--cache", "off"]):
            code, seconds = _child([sys.executable, "-m", "silc", *command], lines, began + LONGEST)
            cost += seconds
            if code is None:
                return f"took longer than {LONGEST} s and was ended"
            if code:
                return f"ended with code {code}; see {log}"
    _keep(run, config, json.loads(scores.read_text()), cost)
    print(f"{time.strftime('%H:%M')} {run.name} finished, {cost:.0f} CPU seconds", flush=True)
    return ""


def _of_another_study(run: Run) -> dict[str, Any] | None:
    """What a finished run of another study left that was told the same, if there is one."""
    told = _told(run, run.config())
    for file in sorted(QUEUE.parent.glob("*/*/seed-*.json")):
        found: dict[str, Any] = json.loads(file.read_text())
        if {"recipe": found["recipe"], "fields": found["fields"]} == told:
            return found
    return None


def _told(run: Run, config: Config) -> dict[str, Any]:
    """The recipe, and what was changed of it."""
    usual = configs.flat(recipes.get(run.study.arms[run.arm].recipe))
    fields = {path: value for path, value in configs.flat(config).items() if value != usual[path] and path != "out"}
    return {"recipe": config.recipe, "fields": fields}


def _child(command: list[str], lines: Any, until: float) -> tuple[int | None, float]:
    """Exit code (None where it was ended at `until`) and CPU seconds of a process with one thread."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=one_thread, stdout=lines, stderr=subprocess.STDOUT, cwd=ROOT)
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, used.ru_utime + used.ru_stime
        if time.time() > until:
            process.kill()
            process.wait()
            return None, 0.0
        time.sleep(0.2)


def _sets(config: Config) -> Path:
    """The evaluation sets of the world a run trains on, written once."""
    from silc.data.object_sets import most_retrieval, write_sets

    world = configs.to_dict(config)["data"]["objects"]
    if config.data.source != "objects":
        raise BadInput(f"data.source is {config.data.source}; runs of the queue train on objects")
    known = hashlib.sha256(json.dumps({**world, "num": 0, "caption_noise": 0}).encode()).hexdigest()[:12]
    folder = OUT / "sets" / known
    if not folder.exists():
        made = folder.with_name(f"{known}.{os.getpid()}.{time.time_ns()}")
        few = min(500, most_retrieval(config.data.objects))
        write_sets(made, config.data.objects, seed=0, num_retrieval=few)
        try:
            made.rename(folder)
        except OSError:  # another run was earlier
            shutil.rmtree(made)
    return folder


def _keep(run: Run, config: Config, records: list[dict[str, Any]], cost: float) -> None:
    """Write what is committed of a finished run."""
    environment = json.loads((Path(config.out) / "env.json").read_text())
    content = {
        **_told(run, config),
        "cpu_seconds": round(cost),
        "hardware": {name: environment[name] for name in ("processor", "torch", "python")},
        "commit": _commit(),
        "last": {name: value for name, value in history(Path(config.out))[-1].items() if "/" in name},
        "scores": [{name: record.get(name) for name in KEPT} for record in records],
    }
    _write(run, content)


def _write(run: Run, content: dict[str, Any]) -> None:
    named = {"study": run.study.name, "arm": run.arm, "seed": run.seed}
    result(run).parent.mkdir(parents=True, exist_ok=True)
    write_whole(result(run), json.dumps({**content, **named}, indent=1) + "\n")


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def begin() -> None:
    """Start the queue in a session of its own.

    Raises:
        BadInput: the queue is damaged, or it runs already.
    """
    waiting = [run for run in runs(studies()) if not result(run).exists()]
    if pid := _running():
        raise BadInput(f"the queue runs already, as process {pid}; `stop` ends it")
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "log.txt").open("a") as log:
        command = [sys.executable, __file__, "run", "--stay"]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    (OUT / "pid").write_text(str(process.pid))
    print(f"{len(waiting)} runs wait; process {process.pid} carries them out, {OUT / 'log.txt'} tells of them")


def _running() -> int:
    """The process that carries out the queue; 0: none does."""
    try:
        pid = int((OUT / "pid").read_text())
        return pid if b"evidence" in Path(f"/proc/{pid}/cmdline").read_bytes() else 0
    except (OSError, ValueError):
        return 0


def stop() -> None:
    """End the queue and the runs under way."""
    if pid := _running():
        os.killpg(pid, signal.SIGTERM)
    print(f"process {pid} and its runs were ended" if pid else "the queue does not run")


def status() -> None:
    """Print how far each study is, and what it has cost."""
    every: list[dict[str, Any]] = []
    for study in studies():
        own = list(runs([study]))
        done = [json.loads(result(run).read_text()) for run in own if result(run).exists()]
        every += done
        print(f"{study.name:<24} {len(done):>3} of {len(own):>3} runs, {cpu_hours(done):.1f} CPU hours")
    print(f"in all {cpu_hours(every):.1f} CPU hours; a run that studies share is counted once")
    print(f"process {_running()} carries out the queue" if _running() else "the queue does not run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="begin what is not finished")
    run.add_argument("--stay", action="store_true", help="in this terminal")
    for name, what in (("status", "how far it is"), ("stop", "end it"), ("table", "write docs/results.md")):
        commands.add_parser(name, help=what)
    asked = parser.parse_args()
    try:
        if asked.command == "run":
            carry_out() if asked.stay else begin()
        else:
            {"status": status, "stop": stop, "table": lambda: write_tables(studies(), result)}[asked.command]()
    except BadInput as error:
        print(f"evidence: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

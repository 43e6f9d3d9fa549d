"""Data that does harm: small files of huge images, shards at a server that fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from scripts.nginx import Nginx, missing
from silc.data.scenes import ScenePairs

from .outcome import Row, same, steps_done
from .run import SMALL, Run


def images(folder: Path, short: bool) -> Iterator[Row]:
    """Small files of 169 megapixels in five formats: refused in under 10 ms and 20 MB each."""
    script = Path(__file__).parents[1] / "fuzz_images.py"
    done = subprocess.run([sys.executable, str(script), "bombs"], capture_output=True, text=True, check=True)
    bombs = json.loads(done.stdout)
    survived = sum(bomb["milliseconds"] < 10 and bomb["grown_mb"] < 20 for bomb in bombs.values())
    slowest, most = (max(bomb[what] for bomb in bombs.values()) for what in ("milliseconds", "grown_mb"))
    yield Row("decompression bombs", len(bombs), survived, f"at most {slowest:.2f} ms and {most:.0f} MB")


def remote(folder: Path, short: bool) -> Iterator[Row]:
    """Shards at a real nginx: that is slow, busy and cuts connections; away for a while; away for good. The end is that
    of a run on local files, bit for bit."""
    if absent := missing():
        yield Row("remote shards", 0, 0, f"not run: {absent}")
        return
    shards, pattern, away = write_shards(folder / "shards"), "{00000..00003}.tar", 3.0 if short else 10.0
    fields = [*SMALL, "--data.source", "shards", "--data.index-cache", str(folder / "index")]
    fields += ["--train.duration", "60 steps", "--train.save-every", "5 steps", "--train.log-every", "1 steps"]
    with Nginx(folder / "nginx", shards) as server:
        for ranks in (1,) if short else (1, 2):
            whole = Run(folder / f"local-{ranks}", *fields, f"--data.train={shards}/{pattern}", ranks=ranks)
            whole.finish()
            for kind, cache in (("bad", "off"), ("bad", str(folder / f"cache-{ranks}"))):
                far = [*fields, "--data.train", server.url(kind, pattern), "--data.remote-cache", cache]
                before = len(server.requests())
                out = folder / f"{kind}-{ranks}-{'off' if cache == 'off' else 'kept'}"
                good = Run(out, *far, ranks=ranks).finish() == 0 and same(out, whole.out)
                met = Counter(status for status, *_ in server.requests()[before:])
                kept = "" if cache == "off" else ", cache on disk"
                figure = f"{met[206]} answers, {met[503]} times 503, {met[444]} times cut off; bitwise equal"
                yield Row(f"remote, bad server, {_ranks(ranks)}{kept}", 1, int(good), figure)
            far = [*fields, "--data.train", server.url("plain", pattern), "--data.remote-cache", "off"]
            run = Run(folder / f"away-{ranks}", *far, ranks=ranks)
            reached = run.wait_for(lambda out=run.out: steps_done(out) > 10)  # type: ignore[misc]
            server.stop()
            time.sleep(away)
            held = steps_done(run.out)
            server.start()
            good = reached and run.finish() == 0 and same(run.out, whole.out)
            figure = f"held up at step {held} of 60 for {away:.0f} s; bitwise equal"
            yield Row(f"remote, away and back, {_ranks(ranks)}", 1, int(good and held < 60), figure)
            run = Run(folder / f"gone-{ranks}", *far, "--data.remote-patience", "3", ranks=ranks)
            reached = run.wait_for(lambda out=run.out: steps_done(out) > 10)  # type: ignore[misc]
            server.stop()
            start, code = time.monotonic(), run.finish()
            took = time.monotonic() - start
            said = [line for line in run.log.read_text().splitlines() if "could not be read" in line]
            server.start()
            # torchrun has an exit code of its own; each rank that met it says so.
            good = reached and code == (75 if ranks == 1 else 1) and 1 <= len(said) <= ranks
            good = good and "--resume auto" in said[0] and Run(run.out, *far, ranks=ranks).finish() == 0
            figure = f"exit code {code} after {took:.0f} s with 3 s of patience; resumed, bitwise equal"
            yield Row(f"remote, gone, {_ranks(ranks)}", 1, int(good and same(run.out, whole.out)), figure)


def _ranks(number: int) -> str:
    return f"{number} rank{'s' * (number > 1)}"


def write_shards(folder: Path) -> Path:
    """Four shards of 24 generated scenes."""
    folder.mkdir(parents=True)
    pairs = ScenePairs(96, 24, seed=0)
    for shard in range(4):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(24 * shard, 24 * shard + 24):
                pair, image = pairs[index], io.BytesIO()
                Image.fromarray(pair.pixels).save(image, "PNG")
                text = json.dumps({"captions": pair.captions}).encode()
                for kind, data in (("png", image.getvalue()), ("json", text)):
                    header = tarfile.TarInfo(f"{index:05d}.{kind}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    return folder

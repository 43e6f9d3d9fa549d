"""Shards scored: what stands in their files, that work goes on after a stop, and what is told of bad input."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import silc
from silc import cli
from silc.data.open_files import OpenFiles
from silc.errors import LostRank
from tests.data.conftest import encoded, photo, sample, write_tar

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("py3langid")


def score(shards: str | Path, out: Path, *flags: str) -> int:
    return cli.main(["data", "score", str(shards), "--out", str(out), "--device", "cpu", *flags])


def rows(out: Path, shard: str = "00000") -> list[dict[str, Any]]:
    return list(pq.read_table(out / f"{shard}.parquet").to_pylist())


@pytest.fixture(scope="session")
def model(finished: Callable[..., Path]) -> Path:
    return finished("silc_c")


def test_scores_are_the_models_own(model: Path, tmp_path: Path) -> None:
    """Cosine and embedding of each sample as `silc.load` has them, the best of two captions, whatever the batch."""
    write_tar(tmp_path / "00000.tar", [member for number in range(5) for member in sample(number)])
    assert score(tmp_path / "00000.tar", tmp_path / "out", "--model", str(model), "--batch-size", "2") == 0
    found, loaded = rows(tmp_path / "out"), silc.load(model, device="cpu")
    for number, row in enumerate(found):
        image = loaded.encode_image(Image.open(_file(tmp_path, encoded(photo(number)))))
        captions = [f"photo {number}", f"picture number {number}"]
        cosines = (loaded.encode_text(captions) @ image.T)[:, 0]
        assert row["best_caption"] == int(cosines.argmax())
        assert row["caption"] == captions[int(cosines.argmax())]
        assert row["clip_score"] == pytest.approx(float(cosines.max()), abs=1e-5)
        assert np.allclose(row["embedding"], image[0].numpy(), atol=1e-3)
        assert row["num_captions"] == 2
    assert pq.read_schema(tmp_path / "out" / "00000.parquet").field("embedding").type.value_type == pa.float16()


def _file(folder: Path, data: bytes) -> Path:
    (folder / "one.jpg").write_bytes(data)
    return folder / "one.jpg"


def test_what_is_told_without_a_model(tmp_path: Path) -> None:
    image, uid = encoded(photo(0, (300, 200))), "0123456789abcdef" * 2
    fields = {"uid": uid, "caption": "Two dogs are running in the snow .", "url": "https://a/b", "original_width": 900}
    fields["title"] = "IMG_1"
    text = "Ein Mann spielt Gitarre auf der Straße."
    write_tar(
        tmp_path / "00000.tar",
        [
            *[("a.jpg", image), ("a.json", json.dumps(fields).encode())],
            *[("b.png", encoded(photo(1), "PNG")), ("b.txt", text.encode())],
        ],
    )
    assert score(tmp_path / "00000.tar", tmp_path / "out") == 0
    first, second = rows(tmp_path / "out")
    assert first["uid"] == uid
    assert second["uid"] == hashlib.sha256(b"00000.tar\0b").hexdigest()[:32]
    assert (first["width"], first["height"]) == (300, 200)  # a width without a height is another picture's
    assert first["sha256"] == hashlib.sha256(image).hexdigest()
    assert json.loads(first["json"]) == {name: value for name, value in fields.items() if name != "caption"}
    assert (first["chars"], first["words"], first["fasttext_tokens"]) == (34, 8, 8)
    assert (first["language"], second["language"]) == ("en", "de")
    assert first["english"] > 0.9 > 0.1 > second["english"]
    assert "clip_score" not in first


def test_sizes_are_those_before_img2dataset(tmp_path: Path) -> None:
    fields = {"caption": "a dog", "original_width": 900, "original_height": 600}
    write_tar(tmp_path / "00000.tar", [("a.jpg", encoded(photo(0))), ("a.json", json.dumps(fields).encode())])
    assert score(tmp_path / "00000.tar", tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out")
    assert (row["width"], row["height"]) == (900, 600)


def test_several_models_and_captions_that_are_cut(
    model: Path, finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each scores as it does alone; the captions are those that the first one takes."""
    short = [("b.jpg", encoded(photo(1))), ("b.txt", b"ab")]
    write_tar(tmp_path / "00000.tar", [("a.jpg", encoded(photo(0))), ("a.txt", b"a long caption " * 9), *short])
    models = {"x": model, "y": finished("clip")}
    asked = ["--model", *(f"{name}={path}" for name, path in models.items())]
    assert score(tmp_path / "00000.tar", tmp_path / "out", *asked) == 0
    first, second = rows(tmp_path / "out")
    assert first["clip_score_x"] != first["clip_score_y"]
    for name, path in models.items():
        loaded = silc.load(path, device="cpu")
        image = loaded.encode_image(Image.open(_file(tmp_path, encoded(photo(1)))))
        cosine = float(loaded.encode_text("ab") @ image[0])
        assert second[f"clip_score_{name}"] == pytest.approx(cosine, abs=1e-5)
        assert np.allclose(second[f"embedding_{name}"], image[0].numpy(), atol=1e-3)
        assert [first[f"cut_{name}"], second[f"cut_{name}"]] == [True, False]
    assert "1 captions are longer than the model's text length" in capsys.readouterr().out


def test_scores_that_are_no_numbers_are_broken(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others of the batch keep their own scores and embeddings."""
    from silc.curate import scorer

    write_tar(tmp_path / "00000.tar", [member for number in range(3) for member in sample(number)])
    assert score(tmp_path / "00000.tar", tmp_path / "sound", "--model", str(model)) == 0
    encoded_by = scorer._encoded

    def with_nan(model: Any, texts: Any, size: int) -> Any:
        for part in encoded_by(model, texts, size):
            part[2:4] = float("nan")  # both captions of the second sample
            yield part

    monkeypatch.setattr(scorer, "_encoded", with_nan)
    assert score(tmp_path / "00000.tar", tmp_path / "out", "--model", str(model)) == 0
    assert "no_score 1" in capsys.readouterr().out
    sound, found = rows(tmp_path / "sound"), rows(tmp_path / "out")
    assert [row["cause"] for row in found] == [None, "no_score", None]
    assert found[1]["clip_score"] is None
    assert (found[0], found[2]) == (sound[0], sound[2])


def test_broken_samples_have_their_cause(
    corpus: tuple[list[Path], set[tuple[str, str, str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same causes as training meets, one row each; a cut shard's are in its file's metadata."""
    paths, truth = corpus
    assert score(f"{paths[0].parent}/*.tar", tmp_path / "out", "--threads", "2") == 0
    broken = {
        (str(path), row["key"], row["cause"])
        for path in paths
        for row in rows(tmp_path / "out", path.stem)
        if row["cause"]
    }
    assert broken == {entry for entry in truth if entry[1]}
    assert sum(len(rows(tmp_path / "out", path.stem)) for path in paths) >= 160
    assert "cut_shard 1" in capsys.readouterr().out


def test_what_is_there_is_done(
    model: Path, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, flags = tmp_path / "out", ["--model", str(model)]
    assert score(f"{shards[0].parent}/*.tar", out, *flags) == 0
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "00002.parquet").unlink()
    times = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    capsys.readouterr()
    assert score(f"{shards[0].parent}/*.tar", out, *flags) == 0
    assert "4 of 5 shards are scored already" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())


def test_a_pool_writes_the_same_bytes(model: Path, shards: list[Path], tmp_path: Path) -> None:
    for out, workers in (("one", "1"), ("two", "2")):
        assert score(f"{shards[0].parent}/*.tar", tmp_path / out, "--model", str(model), "--workers", workers) == 0
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / out).iterdir()} for out in ("one", "two"))
    assert one == two
    assert len([name for name in one if name.endswith(".parquet")]) == 5


@pytest.mark.slow
def test_a_killed_worker_and_its_shards_are_named(shards: list[Path], tmp_path: Path) -> None:
    """And the files that are there stay."""
    from silc.curate import engine
    from silc.curate.scorer import ScorePlan

    pipe = tmp_path / "pipe.tar"  # a worker that opens it waits, until it is killed
    os.mkfifo(pipe)
    outcomes = engine.run([shards[0], pipe, shards[1]], ScorePlan(tmp_path / "out"), workers=2)
    assert next(outcomes).rows
    before = multiprocessing.active_children()
    time.sleep(1)
    for child in before:
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(LostRank, match=r"while it scored one of: .*pipe\.tar"):
        list(outcomes)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_pool_ends_with_its_parent(tmp_path: Path) -> None:
    """Also while a worker waits for a file."""
    for number in range(2):
        os.mkfifo(tmp_path / f"{number}.tar")
    program = f"""
from pathlib import Path
from silc.curate import engine
from silc.curate.scorer import ScorePlan
folder = Path({str(tmp_path)!r})
list(engine.run(sorted(folder.glob("*.tar")), ScorePlan(folder / "out"), workers=2))
"""
    driver = subprocess.Popen([sys.executable, "-c", program])
    children: list[Path] = []
    end = time.monotonic() + 60
    while len(children) < 3 and time.monotonic() < end:  # the tracker of resources is one of them
        time.sleep(0.1)
        children = [
            Path("/proc") / pid for pid in Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        ]
    assert len(children) == 3
    time.sleep(2)
    driver.kill()
    driver.wait()
    while any(map(_lives, children)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [child for child in children if _lives(child)]


def _lives(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_bad_input_is_told(model: Path, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, first = tmp_path / "out", str(shards[0])

    def complaint(*args: Any) -> str:
        capsys.readouterr()
        assert score(*args) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert score(first, out) == 0
    assert "was scored by no model" in complaint(first, out, "--model", str(model))
    copy = tmp_path / "other" / shards[0].name
    copy.parent.mkdir()
    (tmp_path / "theirs").mkdir()
    write_tar(copy, sample(77))
    assert "delete it to score the shard again" in complaint(copy, out)
    assert "have the same name" in complaint(f"{first}::{copy}", tmp_path / "new")
    (out / "00000.parquet").write_bytes((out / "00000.parquet").read_bytes()[:-9])
    assert "no complete file of scores" in complaint(first, out)
    pq.write_table(pa.table({"url": ["https://a/b"]}), tmp_path / "theirs" / "00000.parquet")
    assert "is no file of scores, and scores would replace it" in complaint(first, tmp_path / "theirs")
    assert "each needs a name for its columns" in complaint(first, tmp_path / "new", "--model", str(model), str(model))
    assert "does not exist" in complaint(tmp_path / "none.tar", tmp_path / "new")
    assert "nowhere" in complaint(first, tmp_path / "new", "--model", str(tmp_path / "nowhere"))


def test_scores_of_another_shard_or_by_other_weights_are_not_taken_for_done(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard of the same name and size, made anew; a copy of the shard is the shard."""
    path, out = tmp_path / "00000.tar", tmp_path / "out"
    write_tar(path, [("a.jpg", encoded(photo(0))), ("a.txt", b"a dog")])
    size, flags = path.stat().st_size, ["--model", str(model)]
    assert score(path, out, *flags) == 0
    os.utime(path, (1, 1))
    assert score(path, out, *flags) == 0
    assert score(path, out, *flags, "--max-pixels", "9") == 2
    assert "--max-pixels 64000000" in capsys.readouterr().err
    write_tar(path, [("a.jpg", encoded(photo(0))), ("a.txt", b"a cat")])
    os.utime(path, (2, 2))
    assert path.stat().st_size == size
    assert score(path, out, *flags) == 2
    assert "has the scores of another shard" in capsys.readouterr().err

    other = write_tar(tmp_path / "00001.tar", sample(1))
    assert score(other, out, *flags) == 0
    _with_weights(out / "00001.parquet", "0" * 64)
    assert score(other, out, *flags) == 2  # nothing is left to do
    assert "other weights" in capsys.readouterr().err
    (out / "00000.parquet").unlink()
    assert score(path, out / "more", *flags) == 0
    (out / "more" / "00000.parquet").rename(out / "00000.parquet")
    assert score(f"{tmp_path}/*.tar", out, *flags) == 2
    assert "were scored by different weights" in capsys.readouterr().err


def _with_weights(file: Path, checksum: str) -> None:
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"silc"])
    about["models"][0]["checksum"] = checksum
    pq.write_table(table.replace_schema_metadata({"silc": json.dumps(about)}), file)


def test_scores_of_before_are_known_by_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that say no more of their shard go on."""
    path = write_tar(tmp_path / "00000.tar", sample(0))
    assert score(path, tmp_path / "out") == 0
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    about = json.loads(table.schema.metadata[b"silc"])
    about["shard"] = {name: about["shard"][name] for name in ("path", "bytes", "rows", "causes")}
    pq.write_table(table.replace_schema_metadata({"silc": json.dumps(about)}), tmp_path / "out" / "00000.parquet")
    assert score(path, tmp_path / "out") == 0
    assert "1 of 1 shards are scored already" in capsys.readouterr().out


def test_a_model_is_known_by_its_weights_not_by_its_path(
    model: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    assert score(shards[0], tmp_path / "out", "--model", str(model)) == 0
    assert score(shards[1], tmp_path / "out", "--model", f"./{model.name}") == 0
    assert score(f"{shards[0]}::{shards[1]}", tmp_path / "out", "--model", f"{model}/") == 0
    flags = ["--keep", "clip_score top 50%", "--out", str(tmp_path / "s.npy")]
    pytest.importorskip("duckdb")
    assert cli.main(["data", "select", str(tmp_path / "out"), *flags]) == 0


def test_workers_are_told_whole_paths(
    model: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's actors on other nodes have working directories of their own."""
    from silc.curate import engine

    monkeypatch.chdir(tmp_path)
    Path("model").symlink_to(model)
    Path("data").symlink_to(shards[0].parent)
    told: list[Any] = []
    monkeypatch.setattr(engine, "run", lambda shards, plan, **_: told.append((shards, plan)) or [])
    assert cli.main(["data", "score", "data/00000.tar", "--out", "out", "--model", "model", "--ray", ""]) == 0
    ((left, plan),) = told
    assert left == [tmp_path / "data" / "00000.tar"]
    assert plan.out == tmp_path / "out"
    assert plan.models == (("", str(tmp_path / "model")),)


def test_a_shard_that_is_none_costs_itself_alone(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    assert score(f"{tmp_path}/bad.tar::{shards[0]}", tmp_path / "out") == 2  # what follows must not take it for whole
    said = capsys.readouterr()
    assert "left out" in said.out
    assert "1 of 2 shards were left out; repair or download them" in said.err
    assert [file.name for file in (tmp_path / "out").glob("*.parquet")] == ["00000.parquet"]
    assert score(tmp_path / "bad.tar", tmp_path / "other") == 2


def test_a_file_system_that_refuses_leaves_the_shard_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a hiccup kept from being read is no broken sample, which no later run would look at."""
    write_tar(tmp_path / "00000.tar", [member for number in range(4) for member in sample(number)])
    write_tar(tmp_path / "00001.tar", [member for number in range(4) for member in sample(number)])
    reads, read = [], OpenFiles.read

    def stale(self: OpenFiles, path: Path, *args: Any) -> bytes:
        reads.append(path.name)
        if path.name == "00000.tar" and reads.count("00000.tar") > 2:
            raise OSError(116, "Stale file handle")
        return read(self, path, *args)

    with monkeypatch.context() as patched:
        patched.setattr(OpenFiles, "read", stale)
        score(f"{tmp_path}/*.tar", tmp_path / "out")
    assert "Stale file handle" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").glob("*.parquet")] == ["00001.parquet"]
    assert score(f"{tmp_path}/*.tar", tmp_path / "out") == 0
    assert [row["cause"] for row in rows(tmp_path / "out")] == [None] * 4


def test_scores_of_some_shards_alone_are_told(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A share of a pool is another share while shards are missing."""
    pytest.importorskip("duckdb")
    out = tmp_path / "out"
    assert score(f"{shards[0]}::{shards[1]}", out) == 0
    assert score(shards[2], out) == 0
    choose = ["data", "select", str(out), "--keep", "all", "--out", str(tmp_path / "s.npy")]
    assert cli.main(choose) == 0
    assert not capsys.readouterr().err
    (out / "00001.parquet").unlink()
    for command in (choose, ["data", "stats", str(out), "--out", str(tmp_path / "page")]):
        assert cli.main(command) == 0
        assert "has scores of 2 of 3 shards" in capsys.readouterr().err


def test_perceptual_hash_is_imagehashs() -> None:
    """pHash by scipy's transform in float64; a copy that was made smaller and saved again is near."""
    from scipy.fft import dct

    from silc.curate.traits import perceptual_hash

    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC)
        grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
        low = dct(dct(grey, axis=0), axis=1)[:8, :8]
        expected = int("".join("1" if bit else "0" for bit in (low > np.median(low)).flatten()), 2)
        ours = perceptual_hash(np.asarray(image))
        assert ours == expected
        small = Image.open(_bytes(encoded(image.resize((80, 60)), quality=60)))
        assert (perceptual_hash(np.asarray(small)) ^ ours).bit_count() <= 6


def test_pictures_of_one_colour_are_copies_everywhere() -> None:
    """What rounding leaves of their other frequencies decides nothing."""
    from silc.curate.traits import perceptual_hash

    flat = [np.full((50, 70, 3), grey, np.uint8) for grey in (7, 128, 201, 255)]
    assert {perceptual_hash(pixels) for pixels in flat} == {1 << 63}
    assert perceptual_hash(np.zeros((50, 70, 3), np.uint8)) == 0


def _bytes(data: bytes) -> Any:
    import io

    return io.BytesIO(data)

"""The study of CAT-Seg over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import captions, open_vocabulary, silc_command


def test_a_run_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Checkpoints and scores of a part of a training are no reason to leave the rest out."""
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "scores.json").write_text("[]")
    asked: list[list[str]] = []
    monkeypatch.setattr(silc_command, "silc", lambda words: asked.append(words))
    open_vocabulary.head(Path("towers"), Path("world"), "objects", ["objects"], tmp_path, seed=0, crop=48, steps=4)
    train, score = asked
    assert train[:2] == ["train", "catseg"]
    assert train[-2:] == ["--resume", "auto"]
    assert score[:2] == ["eval", "towers"]


def test_towers_that_were_cut_off_are_trained_to_their_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before a head learns from them."""
    asked: list[list[str]] = []
    monkeypatch.setattr(silc_command, "silc", lambda words: asked.append(words))
    monkeypatch.setattr(open_vocabulary, "summary", lambda *_: [])
    open_vocabulary.objects("clip", tmp_path, tmp_path / "out", seeds=[3], steps=4, quick=False)
    open_vocabulary.photographs("clip", tmp_path, tmp_path / "out", seeds=[0], steps=4)
    captions.towers_of(tmp_path, "clip", 4, quick=False)  # not there: from the start
    (tmp_path / "clip" / "seed-4" / "checkpoints").mkdir(parents=True)
    for _ in range(2):  # once is enough
        captions.towers_of(tmp_path, "clip", 4, quick=False)
    own, other, real = str(tmp_path / "clip/seed-3"), str(tmp_path / "clip/seed-4"), str(tmp_path / "clip")
    trained = [words for words in asked if words[0] == "train" and words[1] != "catseg"]
    assert [words[1] for words in trained] == [
        f"{own}/config.yaml",
        f"{real}/config.yaml",
        "clip-tiny",
        f"{other}/config.yaml",
    ]
    assert trained[0] == ["train", f"{own}/config.yaml", "--resume", "auto"]
    assert asked[0] == trained[0]


@pytest.mark.parametrize("given", [["--only", "photographs"], ["--real", "out/real"]])
def test_photographs_need_towers_and_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["open_vocabulary", str(tmp_path), *given])
    with pytest.raises(SystemExit) as ended:
        open_vocabulary.main()
    assert ended.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twice: the second time nothing is left to do but to lay the table out again."""
    monkeypatch.setattr("sys.argv", ["open_vocabulary", str(tmp_path), "--quick"])
    open_vocabulary.main()
    table = (tmp_path / "table.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()] == ["| clip", "| clip", "| silc_c", "| silc_c"]
    open_vocabulary.main()
    assert (tmp_path / "table.md").read_text() == table

"""Filters equal DataComp's own, uid for uid and byte for byte, on an invented table; what cannot be read is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silc import cli
from silc.data.uids import halves

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("duckdb")

FIXTURE = "oracles/datacomp"


def vectors(rows: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1).astype(np.float16)), rows.shape[1])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's three tables with the columns that were looked up or lay beside them."""
    from tests.conftest import SILC_DATA

    source = SILC_DATA / FIXTURE
    if not source.is_dir():
        pytest.skip(f"no DataComp fixture at {source}")
    inputs = json.loads((source / "inputs.json").read_text())
    folder = tmp_path_factory.mktemp("scores")
    for name in inputs["shards"]:
        table = pq.read_table(source / "metadata" / f"{name}.parquet")
        texts = [text.replace("\n", " ") for text in table.column("text").to_pylist()]
        arrays = np.load(source / "metadata" / f"{name}.npz")
        table = table.append_column("language", pa.array([inputs["fasttext_language"][text] for text in texts]))
        raw = table.column("text").to_pylist()
        gcld3 = [
            inputs["gcld3_language"].get(a, inputs["gcld3_language"].get(b)) for a, b in zip(raw, texts, strict=True)
        ]
        table = table.append_column("language_gcld3", pa.array(gcld3))
        table = table.append_column("embedding", vectors(arrays["l14_img"]))
        pq.write_table(table, folder / f"{name}.parquet")
    words = [
        word
        for word, synset in inputs["wordnet_first_synset"].items()
        if synset is not None and synset[0] in inputs["entity_offsets"]
    ]
    (folder / "words.txt").write_text("\n".join(words))
    np.save(folder / "targets.npy", np.load(source / "centroids.npz")["target_embeddings"])
    return folder


EQUAL = {
    "no_filter": "all",
    "basic_filter": "basic",
    "clip_score_l14_fraction0.3": "clip_l14_similarity_score top 30%",
    "clip_score_l14_fraction0.1": "clip_l14_similarity_score top 0.1",
    "clip_score_b32_fraction0.5": "clip_b32_similarity_score top 50%",
    "clip_score_b32_threshold0.28": "clip_b32_similarity_score >= 0.28",
    "clip_score_l14_threshold0.25": "clip_l14_similarity_score >= 0.25",
    "laion2b": "laion2b language=language_gcld3 clip_score=clip_b32_similarity_score",
    "text_based": "text_based {folder}/words.txt",
    "image_based": "image_near {folder}/targets.npy and caption",
    "image_based_intersect_clip_score_l14_fraction0.4": (
        "clip_l14_similarity_score top 40% and image_near {folder}/targets.npy and caption"
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equals_datacomp(name: str, scores: Path, tmp_path: Path, silc_data: Path) -> None:
    out, keep = tmp_path / "subset.npy", EQUAL[name].format(folder=scores)
    near = ["--centroids", str(silc_data / FIXTURE / "centroids.npz")] if "image_near" in keep else []
    assert cli.main(["data", "select", str(scores), "--keep", keep, "--out", str(out), *near]) == 0
    theirs = np.load(silc_data / FIXTURE / f"{name}.npy")
    ours = np.load(out)
    assert len(theirs) == json.loads((silc_data / FIXTURE / "expected.json").read_text())["counts"][name]
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    assert out.read_bytes() == (silc_data / FIXTURE / f"{name}.npy").read_bytes()


def table(folder: Path, **columns: Any) -> Path:
    """A folder with one file of scores; uids are 0, 1, 2 ..."""
    folder.mkdir(parents=True, exist_ok=True)
    num = len(next(iter(columns.values())))
    uids = columns.pop("uid", [f"{number:032x}" for number in range(num)])
    pq.write_table(pa.table({"uid": uids, **columns}), folder / "00000.parquet")
    return folder


def kept(scores: Path, *flags: str) -> list[int]:
    out = scores / "subset.npy"
    assert cli.main(["data", "select", str(scores), "--out", str(out), *flags]) == 0
    return [int(last) for _, last in np.load(out).tolist()]


@pytest.mark.parametrize(
    ("flags", "numbers"),
    [
        (["--keep", "x > 2"], [3, 4]),
        (["--keep", "x > 2", "--or", "x = 0"], [0, 3, 4]),
        (["--keep", "x > 2 or x = 0", "--and", "name = b"], [4]),
        (["--keep", "x > 2 or x = 0 and name = a"], [0, 3, 4]),
        (["--keep", "not name = a"], [1, 3, 4]),  # a name that is missing is not a
        (["--keep", "not (x > 2 or x = 0)"], [1, 2]),
        (["--keep", "x top 40%"], [2, 3, 4]),  # int(5 * .4) + 1
        (["--keep", "y top 40%"], [1, 2, 3, 4]),  # ties pass
        (["--keep", "json.n >= 2"], [1]),
        (["--keep", "name = 'b'"], [4]),
        (["--keep", 'name = "it\'s"'], [3]),
        (["--keep", "x >= +2e0"], [2, 3, 4]),
        (["--keep", "x < 1E-3"], [0]),
        (["--keep", "json.n = 2"], [1]),
        (["--keep", "json.n = x"], [2]),
        (["--keep", "json.id = 12345678901234567891"], [1]),  # by its digits: as doubles both are one
        (["--keep", "json.a.b = 3"], [0]),
        (["--keep", "json.c.d > 3"], [0]),
        (["--keep", "code = 007"], [1]),
        (["--keep", "code = '7'", "--or", "code = 7"], [0]),
        (["--keep", "code > 6.5"], [0, 1]),
        (["--keep", "flag = true"], [0]),
        (["--keep", "hash = 12345678901234567891"], [1]),
        (["--keep", "hash <= 1.5"], [2, 3]),
    ],
)
def test_expressions(flags: list[str], numbers: list[int], tmp_path: Path) -> None:
    folder = table(
        tmp_path,
        x=[0.0, 1.0, 2.0, 3.0, 4.0],
        y=[0.0, 1.0, 1.0, 1.0, 2.0],
        name=["a", None, "a", "it's", "b"],
        json=[
            '{"n": 1, "id": 12345678901234567890, "a.b": 3, "c": {"d": 4}}',
            '{"n": 2, "id": 12345678901234567891}',
            '{"n": "x"}',
            "{}",
            None,
        ],
        code=["7", "007", "a", None, None],
        flag=[True, False, None, None, None],
        hash=pa.array([12345678901234567890, 12345678901234567891, 0, 1, None], pa.uint64()),
    )
    assert kept(folder, *flags) == numbers


NAN = float("nan")


@pytest.mark.parametrize(
    ("keep", "numbers"),
    [
        ("clip_score >= 0.3", [2, 3]),  # 0.3 of 32 bits is not less than itself
        ("clip_score = 0.1", [0]),
        ("not clip_score >= 0.3", [0, 1, 4, 5]),
        ("clip_score top 50%", [2, 3, 5]),  # of the four that have a number
        ("laion2b", [2, 3]),
        ("basic", [0, 2, 5]),
        ("json.x > 0.8", [0]),
    ],
)
def test_nan_is_no_number(keep: str, numbers: list[int], tmp_path: Path) -> None:
    folder = table(
        tmp_path,
        clip_score=np.array([0.1, NAN, 0.4, 0.3, NAN, 0.2], np.float32),
        language=["en"] * 6,
        width=[500.0, NAN, 400, 500, 500, 500],
        height=[300.0, 300, 300, NAN, 0, 300],
        words=[4] * 6,
        chars=[9] * 6,
        json=['{"x": 0.9}', '{"x": NaN}', '{"x": "NaN"}', "{}", None, None],
    )
    assert kept(folder, "--keep", keep) == numbers


def test_thresholds_are_those_of_numpy(tmp_path: Path) -> None:
    """To the last bit, of numbers of 32 and of 64: with DataComp's own lines."""
    random = np.random.default_rng(0)
    for name in ("single", "double"):
        values = random.normal(0.25, 0.1, 1000).astype(name)
        folder = table(tmp_path / name, x=values)
        for share, fraction in (("33.3%", 0.333), ("0.1", 0.1), ("7%", 0.07)):
            threshold = -np.sort(-values)[int(len(values) * fraction)]
            assert len(kept(folder, "--keep", f"x top {share}")) == (values >= threshold).sum()
        for value in values[:5].tolist():
            assert len(kept(folder, "--keep", f"x >= {value!r}")) == (values >= value).sum()


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("basik", "did you mean 'basic'"),
        ("clip_scor top 30%", "did you mean 'clip_score'"),
        ("clip_score top 100%", "less than 100 %"),
        ("clip_score top lots", "needed a share"),
        ("clip_score near 3", "needed 'clip_score top 30%'"),
        ("(clip_score > 1", "needed ')'"),
        ("clip_score > 0 and", "at 'the end' needed a filter or a column"),
        ("clip_score > 0 'x", "cannot read"),
        ("basic", "there is no column 'width'"),
        ("basic langauge=text", "basic reads no column 'langauge'; did you mean 'language'?"),
        ("all language=text", "it reads none"),
        ("distinct phash embedding=text", "reads no column 'embedding'"),
        ("distinct text clip_score=scor", "there is no column 'scor'"),
        ("text_based", "needed 'text_based WORDS.txt'"),
        ("text_based nowhere.txt", "does not exist"),
        ("distinct -1", "a number above 0"),
        ("clip_score = abc", "needed a number after =, not 'abc'"),
        ("clip_score = '0.1'", "needed a number after =, not '0.1'"),
        ("clip_score > 0 basic", "is an 'and' missing before 'basic'?"),
        ("clip_score >= 0,05", "needed a number after >=, not '0,05'"),
        ("clip_score >= 200px", "needed a number"),
        ("clip_score < nan", "needed a number"),
        ("not json.nsfv = UNSAFE", "no sample has a field 'nsfv' in its JSON; did you mean 'nsfw'?"),
        ("json.licence = cc0 or all", "no sample has a field 'licence'"),
        ("caption > a", "needed 'caption' (it is read as the filter;"),
        ("distinct 95", "no cosine is above 1"),
        ("(" * 2000 + "all" + ")" * 2000, "hundreds of nested parentheses or nots"),
        ("not " * 2000 + "all", "hundreds of nested parentheses or nots"),
        ("text < b", "needed a number after <, not 'b'"),
        ("clip_score > 9", "none of 2 samples is kept"),
        ("", "--keep is empty; give a filter"),
    ],
)
def test_what_cannot_be_read_is_told(keep: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(
        tmp_path / "scores",
        clip_score=[0.1, 0.2],
        caption=["a", "b"],
        text=["a", "b"],
        json=['{"nsfw": "UNSAFE"}', "{}"],
    )
    assert cli.main(["data", "select", str(folder), "--keep", keep, "--out", str(tmp_path / "s.npy")]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "s.npy").exists()


def test_what_the_data_base_says_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", json=["no json", "{}"])
    assert cli.main(["data", "select", str(folder), "--keep", "json.a > 2", "--out", str(tmp_path / "s.npy")]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert "check the columns" in complaint


@pytest.mark.parametrize("flag", ["--centroids", "--seed", "--device"])
def test_flags_that_no_term_reads_are_told(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", x=[1, 2])
    value = "cpu" if flag == "--device" else "3"
    assert cli.main(["data", "select", str(folder), "--keep", "x > 1", "--out", f"{tmp_path}/s.npy", flag, value]) == 2
    assert flag.removeprefix("--") in capsys.readouterr().err
    assert not (tmp_path / "s.npy").exists()


def test_a_number_of_centroids_is_written_in_plain_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", embedding=vectors(np.eye(2)))
    flags = ["--keep", "distinct 0.9", "--centroids", "²", "--out", f"{tmp_path}/s.npy"]
    assert cli.main(["data", "select", str(folder), *flags]) == 2
    assert "² does not exist" in capsys.readouterr().err


def test_names_of_columns_are_no_sql(tmp_path: Path) -> None:
    name = "clip_score\"), 1, 1 FROM scored; COPY (SELECT 1) TO '" + str(tmp_path / "theirs") + "'; --"
    folder = table(tmp_path / "scores", **{name: [0.1, 0.2]})
    assert cli.main(["data", "stats", str(folder), "--out", str(tmp_path / "page")]) == 0
    assert not (tmp_path / "theirs").exists()
    assert name.lower() in json.loads((tmp_path / "page" / "stats.json").read_text())["distributions"]


def test_uids_that_are_none_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", uid=["a" * 32, "7"], x=[1, 1])
    assert cli.main(["data", "select", str(folder), "--keep", "all", "--out", str(tmp_path / "s.npy")]) == 2
    assert "is no uid; needed 32" in capsys.readouterr().err


def test_a_uid_that_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", uid=["a" * 32, None], x=[1, 1])
    assert cli.main(["data", "select", str(folder), "--keep", "all", "--out", str(tmp_path / "s.npy")]) == 2
    assert "is no uid; needed 32" in capsys.readouterr().err


def test_folders_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is a pattern elsewhere is a name here, and OMP_NUM_THREADS may be a list."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    table(tmp_path / "scores1", x=[7])
    assert kept(table(tmp_path / "scores[1]*?'", x=[1, 1]), "--keep", "x = 1") == [0, 1]


def test_a_page_that_is_damaged_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the middle of a file whose end, where its columns are listed, is whole."""
    folder = table(tmp_path / "scores", x=np.arange(5000.0))
    data = bytearray((folder / "00000.parquet").read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    (folder / "00000.parquet").write_bytes(data)
    assert cli.main(["data", "select", str(folder), "--keep", "all", "--out", str(tmp_path / "s.npy")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_rows_without_an_embedding_are_near_to_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A whole batch of them as well; and one of another width is told."""
    num = (1 << 14) + 100
    rows = [None] * num + [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    folder = table(tmp_path / "scores", embedding=pa.array(rows, pa.list_(pa.float32())))
    np.save(tmp_path / "targets.npy", np.array([[0.9, 0.1]], np.float32))
    np.save(tmp_path / "centroids.npy", np.eye(2, dtype=np.float32))
    flags = ["--centroids", str(tmp_path / "centroids.npy")]
    assert kept(folder, "--keep", f"image_near {tmp_path}/targets.npy", *flags) == [num, num + 2]
    assert kept(folder, "--keep", "distinct 0.9", *flags) == [num, num + 1]
    folder = table(tmp_path / "ragged", embedding=pa.array([[1.0, 0.0], [1.0]], pa.list_(pa.float32())))
    args = ["--keep", "distinct 0.9", *flags, "--out", str(tmp_path / "s.npy")]
    assert cli.main(["data", "select", str(folder), *args]) == 2
    assert "an embedding of 1 numbers where 2 were needed" in capsys.readouterr().err


def test_repeated_uids_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path, uid=["a" * 32, "b" * 32, "a" * 32], x=[1, 1, 1])
    assert len(kept(folder, "--keep", "all")) == 3
    assert "1 rows have the uid of another kept row" in capsys.readouterr().out


def test_whose_score_decides_is_asked_where_several_models_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = table(tmp_path, sha256=["a", "a"], clip_score_x=[0.1, 0.2], clip_score_y=[0.2, 0.1])
    assert kept(folder, "--keep", "distinct sha256 clip_score=clip_score_x") == [1]
    assert kept(folder, "--keep", "distinct sha256 clip_score=clip_score_y") == [0]
    assert cli.main(["data", "select", str(folder), "--keep", "distinct sha256", "--out", str(tmp_path / "s.npy")]) == 2
    assert "add clip_score=clip_score_x" in capsys.readouterr().err


def test_which_caption_is_best_stands_beside_with_the_uids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a file of that name that somebody else wrote stays."""
    folder = table(tmp_path, best_caption=[0, 2, 1])
    (folder / "subset.captions.npy").write_text("mine")
    choose = ["data", "select", str(folder), "--keep", "all", "--out", str(folder / "subset.npy")]
    assert cli.main(choose) == 2
    assert "would be replaced" in capsys.readouterr().err
    assert (folder / "subset.captions.npy").read_text() == "mine"
    (folder / "subset.captions.npy").unlink()
    assert kept(folder, "--keep", "all") == [0, 1, 2]
    found = np.load(folder / "subset.captions.npy")
    assert found.dtype.names == ("f0", "f1", "best")
    assert found.tolist() == [(0, 0, 0), (0, 1, 2), (0, 2, 1)]
    assert kept(folder, "--keep", "best_caption = 0") == [0]
    assert not (folder / "subset.captions.npy").exists()


def test_half_a_file_and_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table(tmp_path / "scores", x=[1, 2])
    whole = (folder / "00000.parquet").read_bytes()
    args = ["data", "select", str(folder), "--keep", "all", "--out", str(tmp_path / "s.npy")]
    (folder / "00001.parquet").write_bytes(whole[: len(whole) // 2])
    assert cli.main(args) == 2
    assert "00001.parquet is no complete parquet file" in capsys.readouterr().err
    about = {"models": [{"source": "hf:other", "checksum": "0" * 64}], "shard": {"path": "x"}}
    other = pq.read_table(folder / "00000.parquet").replace_schema_metadata({"silc": json.dumps(about)})
    pq.write_table(other, folder / "00001.parquet")
    assert cli.main(args) == 2
    assert "select among scores of one model" in capsys.readouterr().err
    assert cli.main(["data", "select", str(tmp_path / "none"), *args[3:]]) == 2
    assert "holds no scores" in capsys.readouterr().err


def test_exact_duplicates_and_perceptual_ones(tmp_path: Path) -> None:
    folder = table(tmp_path, sha256=["a", "b", "a", None, None], phash=pa.array([1, 1, 2, 2, 3], pa.uint64()))
    assert kept(folder, "--keep", "distinct sha256") == [0, 1, 3, 4]
    assert kept(folder, "--keep", "distinct phash") == [0, 2, 4]


def test_of_copies_the_one_with_the_best_caption_stays(tmp_path: Path) -> None:
    rows = np.ones((4, 8))
    columns = {"sha256": ["a", "a", "b", "b"], "clip_score": [0.1, 0.3, 0.2, None], "embedding": vectors(rows)}
    folder = table(tmp_path, **columns)
    assert kept(folder, "--keep", "distinct sha256") == [1, 2]
    assert kept(folder, "--keep", "distinct 0.9", "--centroids", "1") == [1]


@pytest.mark.parametrize("centroids", ["1", "4"])
def test_near_duplicates_go_within_clusters(tmp_path: Path, centroids: str) -> None:
    """Against a loop over all pairs."""
    random = np.random.default_rng(0)
    base = random.normal(size=(60, 8))
    rows = np.concatenate([base, base[:30] + 0.01 * random.normal(size=(30, 8)), 3 * base[:5]])
    folder = table(tmp_path, embedding=vectors(rows))
    stayed: list[int] = []
    unit = rows.astype(np.float16).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for number, row in enumerate(unit):
        if not any(row @ unit[other] >= 0.98 for other in stayed):
            stayed.append(number)
    assert stayed == list(range(60))
    assert kept(folder, "--keep", "distinct 0.98", "--centroids", centroids) == stayed


def test_centroids_are_made_of_a_bounded_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn by uid, in the order of rows: the same images whatever the order in which the data base finds them."""
    from silc.curate import clusters
    from silc.curate.scores import open_scores

    seen: list[np.ndarray] = []
    k_means = clusters.k_means
    monkeypatch.setattr(
        clusters, "k_means", lambda rows, *args, **more: seen.append(rows) or k_means(rows, *args, **more)
    )
    monkeypatch.setattr(clusters, "SEEN_IN_ALL", 20)
    rows = np.arange(1, 201).reshape(100, 2)
    with open_scores(table(tmp_path, embedding=vectors(rows))) as scores:
        for num in (2, 30):
            assert len(clusters.centroids_of(scores, "embedding", num, seed=0)) == num
    assert [len(found) for found in seen] == [20, 30]
    assert all((np.diff(found[:, 0]) > 0).all() for found in seen)


def test_a_chain_of_neighbours_loses_its_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tiles of any size decide alike."""
    from silc.curate import duplicates

    angles = np.deg2rad(np.arange(0, 90, 6))
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    for tile, block in ((2048, 2048), (4, 3), (1, 1), (1, 5)):
        monkeypatch.setattr(duplicates, "TILE", tile)
        monkeypatch.setattr(duplicates, "BLOCK", block)
        stays = duplicates.first_of_their_kind(chain, float(np.cos(np.deg2rad(7))))
        assert np.flatnonzero(stays).tolist() == list(range(0, 15, 2))


def test_balancing_is_metaclips(tmp_path: Path) -> None:
    """Expected counts by the paper's formula, in float64; entries that are rare keep everything."""
    random = np.random.default_rng(1)
    captions = ["a dog"] * 2000 + ["a dog and a red car"] * 100 + ["Zebra!"] * 30 + ["dogma"] * 50
    random.shuffle(captions)
    words = tmp_path / "words.txt"
    words.write_text("dog\nred car\nzebra\nunused\n")
    folder = table(tmp_path / "scores", caption=captions, uid=[f"{n:032x}" for n in random.permutation(len(captions))])
    numbers = kept(folder, "--keep", f"balanced {words} 200")
    uids = [int(uid, 16) for uid in pq.read_table(folder / "00000.parquet").column("uid").to_pylist()]
    by_uid = dict(zip(uids, captions, strict=True))
    counts = {caption: sum(by_uid[number] == caption for number in numbers) for caption in set(captions)}
    share = 200 / 2100
    assert counts["Zebra!"] == 30
    assert counts["dogma"] == 0
    assert counts["a dog and a red car"] == 100  # "red car" keeps all of its 100
    assert abs(counts["a dog"] - 2000 * share) < 4 * np.sqrt(2000 * share * (1 - share))
    assert numbers == kept(folder, "--keep", f"balanced {words} 200")
    assert numbers != kept(folder, "--keep", f"balanced {words} 200", "--seed", "1")
    rows = pq.read_table(folder / "00000.parquet")
    (tmp_path / "turned").mkdir()
    pq.write_table(rows.take(np.arange(len(rows))[::-1]), tmp_path / "turned" / "00000.parquet")
    assert numbers == kept(tmp_path / "turned", "--keep", f"balanced {words} 200")


MEASURED = """
import sys
from pathlib import Path
from silc.curate.lookups import Lookups
from silc.curate.scores import open_scores
from silc.curate.select import select
def peak():  # ru_maxrss is the parent's, where that had more
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])
before = peak()
with open_scores(Path(sys.argv[1]), memory="100MB") as scores:
    keep = f"clip_score top 30% and distinct 0.9 and image_near {sys.argv[2]}"
    print(select(scores, keep, Path(sys.argv[1]) / "s.npy", Lookups(scores, "256")).num)
print(before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat(tmp_path: Path) -> None:
    """Four times the rows take little more, and 100 MB are enough for DuckDB: 720,000 uids as text are 58 MB, their
    embeddings in single precision 46 MB."""
    random, found = np.random.default_rng(0), []
    np.save(tmp_path / "targets.npy", random.normal(size=(200, 16)).astype(np.float32))
    for num in (240_000, 960_000):
        folder = tmp_path / str(num)
        folder.mkdir()
        for start in range(0, num, 60_000):
            uids = [f"{value:032x}" for value in range(start, start + 60_000)]
            scores, embeddings = random.random(60_000).astype(np.float32), vectors(random.normal(size=(60_000, 16)))
            pq.write_table(
                pa.table({"uid": uids, "clip_score": scores, "embedding": embeddings}), folder / f"{start}.parquet"
            )
        command = [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "targets.npy")]
        kept_num, *peaks = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(kept_num) == len(np.load(folder / "s.npy"))
        assert 0.1 * num < int(kept_num) <= 0.3 * num + 1
        found.append([int(peak) for peak in peaks])
    assert all(peak > before + 20_000 for before, peak in found)  # KiB; else the peak would not be the choice's
    assert found[1][1] - found[0][1] < 60_000


def test_tables_of_others_have_names_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column `row` numbers no row of ours, `v` and `e` are nobody's short names, and case is no difference to SQL."""
    columns = {"row": [5, 5, 5, 5], "v": [4.0, 3, 2, 1], "e": [None] * 4, "cluster": [0, 0, 0, 1]}
    folder = table(
        tmp_path, Score=[1.0, 2, 3, 4], TEXT=["a b c", "a b", "a", "d e"], **columns, sha256=["a", "a", "b", "b"]
    )
    assert kept(folder, "--keep", "score top 30%") == kept(folder, "--keep", "Score top 30%") == [2, 3]
    assert kept(folder, "--keep", "words >= 2") == [0, 1, 3]
    assert kept(folder, "--keep", "distinct sha256") == [0, 2]
    assert kept(folder, "--keep", "row = 5") == [0, 1, 2, 3]
    with_vectors = table(tmp_path / "more", embedding=vectors(np.eye(4)), **columns)
    assert kept(with_vectors, "--keep", "distinct 0.9", "--centroids", "1") == [0, 1, 2, 3]


def test_one_may_choose_in_two_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`distinct` of what is left keeps a copy; beside another term it may keep the one that goes."""
    folder = table(
        tmp_path / "scores", sha256=["a", "a", "b", "c"], clip_score=[0.9, 0.1, 0.5, 0.2], width=[9, 99, 99, 9]
    )
    assert kept(folder, "--keep", "width > 50", "--and", "distinct sha256") == [2]
    first = tmp_path / "first.npy"
    assert cli.main(["data", "select", str(folder), "--keep", "width > 50", "--out", str(first)]) == 0
    assert kept(folder, "--within", str(first), "--keep", "distinct sha256") == [1, 2]
    assert kept(folder, "--within", str(first), "--keep", "clip_score top 40%") == [2]
    capsys.readouterr()
    np.save(tmp_path / "other.npy", halves(["f" * 32]))
    flags = ["--keep", "all", "--within", str(tmp_path / "other.npy"), "--out", str(tmp_path / "s.npy")]
    assert cli.main(["data", "select", str(folder), *flags]) == 2
    assert "none of the 1 samples of --within" in capsys.readouterr().err
    assert not (tmp_path / "s.npy").exists()


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

"""Every tree that the guide and `silc eval --list` show is made as it is drawn, and evaluated."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.cli import main
from silc.eval import asked, suite
from silc.eval.config import EvalConfig
from silc.records import Record
from tests.data.conftest import encoded, photo, write_tar

BLOCKS = Path(asked.__file__).with_name("own_sets.txt").read_text().strip().split("\n\n")[1:]
TREES = {block.partition("\n")[0]: textwrap.dedent(block.partition("\n")[2]) for block in BLOCKS}
"""What each is for, and the tree under the root."""
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "own-sets.md"
TEXTS = {
    "flowers/classes.txt": "rose\ntulip\n",
    "products/captions.jsonl": '{"image": "images/1.jpg", "captions": ["a red shoe", "a shoe"]}\n'
    '{"image": "images/2.jpg", "captions": ["a hat"]}\n',
    "posters/captions.csv": "image,caption\nimages/1.jpg,a red poster\nimages/2.jpg,a blue poster\n",
    "streets/classes.txt": "background\nroad\ncar\n",
    "birds/classnames.txt": "robin\nwren\n",
    "birds/test/nshards.txt": "1\n",
    "news/test/nshards.txt": "1\n",
}
TARS = {
    "birds/test/0.tar": [("1.jpg", encoded(photo(1))), ("1.cls", b"0"), ("2.jpg", encoded(photo(2))), ("2.cls", b"1")],
    "news/test/0.tar": [
        *(("1.jpg", encoded(photo(1))), ("1.txt", b"a bridge\nriver")),
        *(("2.jpg", encoded(photo(2))), ("2.txt", b"snow")),
    ],
}
WANTED = {
    "classification: flowers-zs, and flowers-fewshot if there is train/": [
        ("flowers", "zeroshot_classification", {"num_images": 2, "num_classes": 2, "split": "test"}),
        ("flowers", "fewshot_classification", {"num_images": 2, "num_classes": 2, "split": "train -> test"}),
    ],
    "retrieval: products-retrieval": [("products", "zeroshot_retrieval", {"num_images": 2, "num_texts": 3})],
    "retrieval, the table as CSV (or .tsv, .json, .txt)": [
        ("posters", "zeroshot_retrieval", {"num_images": 2, "num_texts": 2})
    ],
    "segmentation: streets-zs-seg": [
        ("streets", "zeroshot_segmentation", {"num_images": 2, "num_classes": 2, "background_ignored": True})
    ],
    "classification in shards, as CLIP_benchmark's WebDataset": [
        ("birds", "zeroshot_classification", {"num_images": 2, "num_classes": 2, "split": "test"})
    ],
    "retrieval in shards": [("news", "zeroshot_retrieval", {"num_images": 2, "num_texts": 3})],
}
"""What each is to give: set, task, and what its record counts."""


def files(tree: str) -> list[str]:
    """The paths that a tree draws."""
    folder, *lines = tree.splitlines()
    return [folder + line.split()[0] for line in lines]


def make(tree: str, root: Path) -> None:
    """Every file that a tree draws, and none that it does not."""
    for number, name in enumerate(files(tree)):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        short = name.partition("/")[2]
        if "/labels/" in name:
            Image.fromarray(np.random.default_rng(0).integers(0, 3, (30, 40), dtype=np.uint8)).save(file)
        elif file.suffix == ".tar":
            write_tar(file, TARS[short])
        elif short in TEXTS:
            file.write_text(TEXTS[short])
        else:
            photo(number).save(file)


def evaluated(root: Path, model: object) -> list[Record]:
    config = EvalConfig(root=str(root), shots=(1,), templates="plain", num_pictures=0)
    known = {task for wanted in WANTED.values() for _, task, _ in wanted}
    found = [evaluation.record for evaluation in suite.run({"student": model}, suite.tasks(config))]
    return [record for record in found if record.task in known]


@pytest.mark.parametrize("title", TREES)
def test_a_tree_as_drawn_is_read(title, tmp_path, oracle):
    make(TREES[title], tmp_path)
    records = evaluated(tmp_path, oracle)
    assert [(record.dataset, record.task) for record in records] == [(name, task) for name, task, _ in WANTED[title]]
    for record, (_, _, counted) in zip(records, WANTED[title], strict=True):
        assert {name: record.protocol[name] for name in counted} == counted
        assert record.metrics


def test_all_are_read_together_and_listed(tmp_path, oracle, capsys):
    for tree in TREES.values():
        make(tree, tmp_path)
    assert len(evaluated(tmp_path, oracle)) == sum(map(len, WANTED.values()))
    assert main(["eval", "--list", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Images with boxes, detection/NAME/, are NAME-detection" in out
    for tree in TREES.values():
        for line in tree.splitlines():
            assert line in out
    for wanted in WANTED.values():
        for name, task, _ in wanted:
            assert suite.task_name(task, name) in out


def test_the_guides_commands(tmp_path, finished, monkeypatch):
    for tree in TREES.values():
        make(tree, tmp_path / "data")
    shutil.copytree(finished("silc_c"), tmp_path / "out" / "run")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    for line in block.splitlines():
        _, *args = shlex.split(line)
        few = ["--shots", "1", "--templates", "plain"] if "--list" not in args else []
        assert main([*args, *few]) == 0
    scores = json.loads((tmp_path / "out" / "run" / "scores.json").read_text())
    assert {record["dataset"] for record in scores} == {"flowers", "streets"}


def test_the_guide_shows_the_same_trees():
    guide = GUIDE.read_text()
    for tree in TREES.values():
        assert f"```\n{tree}\n```" in guide
    rows = [json.loads(line) for line in TEXTS["products/captions.jsonl"].splitlines()]
    assert json.dumps(rows[0]) in TREES["retrieval: products-retrieval"]  # the line that the tree quotes is tested

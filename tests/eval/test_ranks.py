"""Evaluation over two processes gives the numbers of one, exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from silc.distributed import World
from silc.errors import BadInput
from silc.eval import fewshot, suite
from silc.eval.config import EvalConfig
from silc.eval.progress import Unscored
from silc.preprocess import Preprocess
from tests.eval.conftest import FOUR


class Letters:
    """Counts of characters as ids."""

    vocab_size, context_length, eos_id = 200, 40, 0

    def __call__(self, texts):
        return torch.tensor([[ord(letter) % 200 for letter in text.ljust(40)[:40]] for text in texts])


class Random:
    """Features that depend on every pixel and letter, by a fixed random projection."""

    name, patch_size, readouts, device = "random", 4, ("patches",), torch.device("cpu")
    preprocess = Preprocess(24)
    tokenizer = Letters()

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(48, 16, generator=generator)
        self.text = torch.randn(40, 16, generator=generator)

    def encode_dense(self, images, readout):
        patches = F.unfold(images, 4, stride=4).transpose(1, 2) @ self.image
        return patches.unflatten(1, (images.shape[2] // 4, images.shape[3] // 4)).sin()

    def encode_pooled(self, images):
        return self.encode_dense(images, "patches").mean((1, 2))

    def encode_image(self, images):
        return F.normalize(self.encode_pooled(images), dim=-1)

    def encode_text(self, ids, *, normalize=True):
        features = (ids.float() @ self.text).sin()
        return F.normalize(features, dim=-1) if normalize else features


def scores(root, world, failed=suite.refuse):
    config = EvalConfig(root=str(root), batch_size=3, num_pictures=2)
    evaluators = suite.tasks(config, world=world, failed=failed)
    evaluators = [one for one in evaluators if one.name.endswith(tuple(FOUR[1:].split(",*")))]
    evaluations = suite.run({"student": Random()}, evaluators, world=world, failed=failed)
    return [
        [asdict(e.record), [(picture.caption, picture.image.tobytes().hex()) for picture in e.pictures]]
        for e in evaluations
    ]


def test_two_processes_equal_one(root, tmp_path):
    alone = json.loads(json.dumps(scores(root, World())))
    assert len(alone) == 4
    assert len({record["metrics"].get("miou") for record, _ in alone}) == 2
    spoilt = tmp_path / "spoilt"
    shutil.copytree(root / "classification", spoilt / "classification")
    shutil.copytree(root / "retrieval", spoilt / "retrieval")
    (spoilt / "retrieval" / "pairs" / "images" / "4.png").write_bytes(b"cut")  # one rank alone reads it
    mp.start_processes(_rank, args=(2, str(root), str(tmp_path)), nprocs=2, start_method="forkserver")
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
        others, told = json.loads((tmp_path / f"{rank}.spoilt.json").read_text())
        assert [record["task"] for record, _ in others] == ["zeroshot_classification"]
        # A set whose list one rank alone cannot read, and one of whose pictures one rank alone found broken.
        assert [line.split(":")[0] for line in told] == [
            *("shapes-fewshot is not scored", "pairs-retrieval is not scored")
        ]
        assert "gone on rank 1" in told[0]
        assert "cannot read the image" in told[1]


def _rank(rank: int, ranks: int, root: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    found = scores(root, World(rank, ranks))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    if rank == 1:
        fewshot.FewShot = _gone
    unscored = Unscored((told := []).append)
    others = scores(Path(folder, "spoilt"), World(rank, ranks), unscored)
    Path(folder, f"{rank}.spoilt.json").write_text(json.dumps([others, told]))
    dist.destroy_process_group()


def _gone(*_, **__):
    raise BadInput("gone on rank 1")

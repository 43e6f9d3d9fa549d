"""What a decoder learns from: named, opened, mixed and batched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from silc.data.loader import Loader, LoaderPlan
from silc.distributed import World
from silc.errors import BadInput
from silc.heads.decoder.config import TextDataConfig
from silc.heads.decoder.data import ToldTexts, filled, named, opened, shown
from silc.heads.decoder.texts import Texts
from silc.heads.decoder.tokenizer import TextTokenizer
from silc.preprocess import Preprocess
from tests.data.conftest import encoded, photo, write_tar


def test_tasks_are_named() -> None:
    assert named("caption:a/{0..3}.tar, vqa:b") == [("caption", "a/{0..3}.tar"), ("vqa", "b")]
    assert named("caption:a/{x,y}.tar") == [("caption", "a/{x,y}.tar")]
    assert shown("caption:https://me:secret@host/a.tar?key=1,vqa:b") == "caption:https://host/a.tar,vqa:b"
    assert named("vqa:a,DATA") == [("vqa", "a,DATA")]
    assert named("caption:a.tar,s3://b/c.tar") == [("caption", "a.tar,s3://b/c.tar")]
    for wrong in ("DATA/coco", "caption:"):
        with pytest.raises(BadInput, match="is no PREFIX:PLACE"):
            named(wrong)


def test_captions_and_questions_are_read_together(root: Path) -> None:
    data = opened(TextDataConfig(f"caption:{root / 'coco'},vqa:{root / 'vqa' / 'squares'}"))
    assert (len(data), data.prefixes, data.blocks.tolist()) == (16, ["caption", "vqa"], [8, 8])
    first, last = data[0], data[15]
    assert (first.prefix, first.question, list(first.answers)) == ("caption", "", ["a red square", "red all over"])
    assert (last.prefix, last.question, list(last.answers)) == ("vqa", "what colour is it?", ["green"])
    assert first.image.getpixel((0, 0)) == (220, 30, 30)
    assert data.where(15) == "squares/7"
    texts = set(data.texts())
    assert {"caption", "vqa", "a blue square", "what colour is it?", "green"} <= texts
    with pytest.raises(IndexError):
        data[16]


def test_captions_of_shards_and_tables(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.jpg", encoded(photo(1))), ("1.txt", b"a bridge")])
    data = opened(TextDataConfig(f"caption:{tmp_path / 'a.tar'}"))
    assert (len(data), list(data[0].answers)) == (1, ["a bridge"])
    (tmp_path / "own").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "own" / "1.png")
    (tmp_path / "own" / "captions.json").write_text('[{"image": "1.png", "captions": ["red", "all red"]}]')
    data = opened(TextDataConfig(f"caption:{tmp_path / 'own'}"))
    assert list(data[0].answers) == ["red", "all red"]


def test_a_batch_has_prompts_answers_and_one_caption_a_visit(root: Path) -> None:
    data = opened(TextDataConfig(f"caption:{root / 'coco'},vqa:{root / 'vqa' / 'squares'}"))
    text = Texts(TextTokenizer.train(data.texts(), 300), 64)
    loader = Loader(data, ToldTexts(Preprocess(16), text), LoaderPlan(16, 0, 4, 0), World())
    batches = list(loader.batches(0, 6))
    written = set()
    for batch in batches:
        assert batch.pixels.shape == (16, 3, 16, 16)
        assert batch.ids.shape == batch.answers.shape
        for row in range(16):
            learnt = batch.ids[row][batch.answers[row]].tolist()
            assert learnt[-1] == text.tokenizer.end
            written.add(text.read(learnt))
            start = int(batch.answers[row].int().argmax())
            asked = text.tokenizer.decode(batch.ids[row, :start].tolist())
            assert asked in ("caption\n", "vqa what colour is it?\n")
    assert written == {
        f(name) for name in ("red", "green", "blue") for f in ("a {} square".format, "{} all over".format, "{}".format)
    }
    again = next(loader.batches(0, 1))
    assert torch.equal(again.ids, batches[0].ids)


def test_nobody_learns_to_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "1.png")
    asked = [{"image": "1.png", "question": "a?", "answers": ["red", "", " ", "red"]}]
    (tmp_path / "train" / "questions.json").write_text(json.dumps(asked))
    data = opened(TextDataConfig(f"vqa:{tmp_path}"))
    assert data[0].answers == ["red", "red"]
    assert list(data.texts())[1:4] == ["a?", "red", " "]


def test_an_image_that_cannot_be_read_is_replaced(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "vqa" / "squares", tmp_path / "squares")
    (tmp_path / "squares" / "train" / "images" / "3.png").write_bytes(b"none")
    data = opened(TextDataConfig(f"vqa:{tmp_path / 'squares'}"))
    text = Texts(TextTokenizer.train(data.texts(), 300), 64)
    (batch,) = Loader(data, ToldTexts(Preprocess(16), text), LoaderPlan(8, 0, 4, 0), World()).batches(0, 1)
    assert [one.key for one in batch.broken] == ["3"]


def test_filled() -> None:
    ids, answers = filled([([2, 5], [6, 1]), ([2], [1])], 0)
    assert ids.tolist() == [[2, 5, 6, 1], [2, 1, 0, 0]]
    assert answers.tolist() == [[False, False, True, True], [False, True, False, False]]

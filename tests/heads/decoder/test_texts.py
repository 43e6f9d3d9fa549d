"""Texts to ids and back."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from silc.errors import BadInput
from silc.heads.decoder.texts import Texts
from silc.heads.decoder.tokenizer import TextTokenizer

HARD = ["A Dog's day, 1/2 done!", "naïve café 東京 🙂", "</s><s>", "two  blanks"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["the quick brown fox", "the lazy dog"] * 10, 300)


def test_every_text_comes_back_as_it_was(tokenizer: TextTokenizer) -> None:
    """Case, punctuation and what no text of the training had; a special token that a stranger types is text."""
    for text in HARD:
        ids = tokenizer.encode(text)
        assert tokenizer.decode([*ids, tokenizer.end, *ids]) == text
        assert not {tokenizer.end, tokenizer.begin, tokenizer.pad} & set(ids)
    assert len(tokenizer.encode("the")) < 3
    assert tokenizer.vocab_size <= 300


def test_it_is_saved_and_goes_to_workers(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for other in (TextTokenizer.load(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert [other.encode(text) for text in HARD] == [tokenizer.encode(text) for text in HARD]
        assert (other.pad, other.end, other.begin) == (0, 1, 2)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"cannot read the decoder's tokenizer .*tokenizer\.json"):
        TextTokenizer.load(tmp_path)


def test_prompts_and_answers_have_half_of_the_room(tokenizer: TextTokenizer) -> None:
    text = Texts(tokenizer, 24)
    short, long = text.prompt("vqa", "why?"), text.prompt("vqa", "why? " * 20)
    assert tokenizer.decode(short) == "vqa why?\n"
    assert (len(long), long[-1]) == (12, short[-1])
    assert text.prompt("caption") == [tokenizer.begin, *tokenizer.encode("caption"), *tokenizer.encode("\n")]
    answer = text.answer("yes " * 20)
    assert (len(answer), answer[-1]) == (12, tokenizer.end)
    assert text.read(text.answer(" a\n red  one ")) == "a red one"


def test_what_is_cut_is_known(tokenizer: TextTokenizer) -> None:
    """A question has room for what prefix, begin and break leave."""
    text = Texts(tokenizer, 24)
    for prefix in ("vqa", "a_longer_one"):
        for size in range(1, 14):
            question, answer = "?" * size, "!" * size
            assert text.is_cut(prefix, question, "") == (
                question not in tokenizer.decode(text.prompt(prefix, question))
            )
            assert text.is_cut("vqa", "", answer) == (text.read(text.answer(answer)) != answer)

"""Token ids equal to the source library's own, on texts made to tell them apart."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import open_clip
import pytest
import sentencepiece
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from silc.errors import BadInput
from silc.interop.tokenizers import clip_bpe, find_tokenizer, from_sentencepiece, load_tokenizer

TEXTS = [
    "a photo of a cat",
    "A Photo of TWO cats, sitting.",
    "state_of-the-art!",
    "  spaces\tand\nlines   between ",
    "don't we're I'll they'd it's",
    "100% cotton, 3.50 € or 2024-25",
    "naïve café Straße Ünïcödé Ёлка 東京 ประเทศ",
    "tom &amp; jerry &lt;3",
    "\u201ccurly\u201d \u2018quotes\u2019 and \ufb01ne \ufb02our",
    "🙂 emoji 👩‍👩‍👧",
    "",
    "?!",
    "word " * 100,
    "supercalifragilisticexpialidocious" * 4,
]
PLAIN = [text for text in TEXTS if "&" not in text and "\u201c" not in text]
"""Without what open_clip repairs and transformers leaves."""


def captions(silc_data: Path) -> list[str]:
    found = json.loads((silc_data / "retrieval" / "flickr8k_test" / "captions.json").read_text())
    return [text for one in found for text in one["captions"]][:500]


def up_to_the_end(ids: torch.Tensor, eos: int) -> list[list[int]]:
    return [row[: row.index(eos) + 1] for row in ids.tolist()]


def test_clips_tokenizer_equals_open_clips_and_transformers(tmp_path: Path) -> None:
    ours = clip_bpe(77)
    theirs = open_clip.tokenizer.SimpleTokenizer()
    assert (ours.vocab_size, ours.eos_id) == (theirs.vocab_size, theirs.eot_token_id)
    # open_clip pads with 0, transformers with the end token; the causal tower does not look past the end.
    assert up_to_the_end(ours(TEXTS), ours.eos_id) == up_to_the_end(theirs(TEXTS), ours.eos_id)
    model = json.loads(ours.tokenizer.to_str())["model"]
    clip = hf.CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    assert ours(PLAIN).tolist() == padded(clip, PLAIN, 77)
    # And after a round trip through the directory, in ours and in transformers.
    ours.save(tmp_path)
    assert load_tokenizer(tmp_path, 77)(TEXTS).tolist() == ours(TEXTS).tolist()
    assert padded(hf.AutoTokenizer.from_pretrained(tmp_path), TEXTS, 77) == ours(TEXTS).tolist()


def padded(tokenizer: Any, texts: list[str], length: int) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, padding="max_length", max_length=length, truncation=True)["input_ids"]
    return ids


def test_clips_tokenizer_on_real_captions(silc_data: Path) -> None:
    texts = captions(silc_data)
    assert len(texts) > 100
    ours = clip_bpe(77)
    assert up_to_the_end(ours(texts), ours.eos_id) == up_to_the_end(
        open_clip.tokenizer.SimpleTokenizer()(texts), ours.eos_id
    )


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a sentencepiece model of SigLIP's kind, and its settings."""
    directory = tmp_path_factory.mktemp("spiece")
    corpus = directory / "corpus.txt"
    words = ["cat", "dog", "photo", "state", "art", "cafe", "naïve", "quotes", "cotton", "emoji", "spaces", "lines"]
    corpus.write_text("\n".join(f"a {a} of the {b} and {c}s" for a in words for b in words for c in words))
    sentencepiece.SentencePieceTrainer.train(
        **{
            "input": str(corpus),
            "model_prefix": str(directory / "spiece"),
            "vocab_size": 200,
            "pad_id": 0,
            "eos_id": 1,
        },
        **{"unk_id": 2, "bos_id": -1, "minloglevel": 2, "hard_vocab_limit": False},
    )
    corpus.unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    return directory


def test_siglips_tokenizer_equals_transformers(spiece: Path) -> None:
    """Cleaning, pieces, the end token after the cut, and padding with it."""
    theirs = hf.SiglipTokenizer(str(spiece / "spiece.model"))
    assert find_tokenizer(spiece, 64)(TEXTS).tolist() == padded(theirs, TEXTS, 64)
    assert find_tokenizer(spiece, 8)(TEXTS).tolist() == padded(theirs, TEXTS, 8)


def test_big_visions_tokenizer_equals_sentencepiece(spiece: Path) -> None:
    """In lower case, sentencepiece's own pieces, a sticky end token."""
    plain = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    ours = from_sentencepiece(spiece / "spiece.model", 16, "lower case")
    for text, ids in zip(TEXTS, ours(TEXTS).tolist(), strict=True):
        pieces = plain.encode(text.lower())[:15]
        assert ids == pieces + [1] * (16 - len(pieces)), text


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    """A tokenizer.json that keeps case and punctuation, as SigLIP 2's (Gemma's) does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        **{"vocab_size": 400, "special_tokens": ["<pad>", "<eos>", "<bos>", "<unk>"], "show_progress": False},
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*TEXTS, string.punctuation], trainer)
    loaded = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    loaded.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_open_clips_cleaning(clean: str, bpe: Path) -> None:
    """open_clip cleans in Python before its tokenizer; the same is inside our file."""
    theirs = open_clip.tokenizer.HFTokenizer(str(bpe), context_length=24, clean=clean)
    ours = load_tokenizer(bpe, 24, clean)
    # Without an end token in its template, theirs ends in padding where ours has the end.
    assert [row[: row.index(ours.eos_id)] for row in ours(TEXTS).tolist() if row[-1] == ours.pad_id] == [
        [i for i in row if i != ours.pad_id] for row in theirs(TEXTS).tolist() if row[-2] == ours.pad_id
    ]


def test_siglip_2_puts_texts_in_lower_case(bpe: Path) -> None:
    settings = json.loads((bpe / "tokenizer_config.json").read_text())
    (bpe / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "Siglip2Tokenizer"}))
    ours = find_tokenizer(bpe, 24)
    assert ours(["A Photo"]).tolist() == ours(["a photo"]).tolist()
    plain = load_tokenizer(bpe, 24)
    assert plain(["A Photo"]).tolist() != plain(["a photo"]).tolist()


def test_a_special_token_that_is_typed_is_text() -> None:
    ours = clip_bpe(77)
    ids = ours(["the end <|endoftext|> and on"])[0].tolist()
    assert ids.index(ours.eos_id) > 8


def test_bad_tokenizers(tmp_path: Path, bpe: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        load_tokenizer(tmp_path / "nothing", 16)
    broken = tmp_path / "spiece.model"
    broken.write_bytes(b"\xff" * 40)
    with pytest.raises(BadInput, match="no sentencepiece model"):
        load_tokenizer(broken, 16)
    settings = json.loads((bpe / "tokenizer_config.json").read_text())
    (bpe / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "left"}))
    with pytest.raises(BadInput, match="pads on the left"):
        load_tokenizer(bpe / "tokenizer.json", 16)

"""Ids against transformers' tokenizer loaded from the same files."""

from __future__ import annotations

import json
import pickle
import re
import string
import unicodedata
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput

CORPUS = [f"a photo of {number} dogs and a {colour} cat" for number in range(50) for colour in ("red", "grey", "blue")]
TEXTS = [
    "A photo of 3 dogs, and a RED cat!",
    "state_of-the-art &amp; <b>bold</b>",
    "  spaces \t\n here  ",
    "\ufb01ne \uff37\uff49\uff44\uff45 ½",
    "Cách làm bánh 🍫 日本語",
    "",
    "...",
    "</s> ends <pad> early </s>",
    "a very long caption " * 20,
    "x" * 3000,
]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(CORPUS, 400, 16)


def test_ids_are_cut_padded_and_ended(tokenizer: BPETokenizer) -> None:
    ids = tokenizer(TEXTS)
    assert ids.shape == (len(TEXTS), 16)
    assert ids.dtype == torch.int64
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    for row in ids.tolist():
        end = row.index(1)
        assert set(row[end + 1 :]) <= {0}
        assert not {0, 1} & set(row[:end])
    assert ids[-1, -1] == 1  # cut
    assert ids[5, 0] == 1  # empty
    assert ids.max() < tokenizer.vocab_size <= 400
    assert tokenizer([]).shape == (0, 16)


def test_transformers_gives_equal_ids(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None
    for load in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        peer = load.from_pretrained(tmp_path)
        encoded = peer(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        assert list(encoded) == ["input_ids"]
        assert torch.equal(encoded["input_ids"], tokenizer(TEXTS))
        assert (peer.model_max_length, peer.eos_token_id, peer.pad_token_id) == (16, 1, 0)


def test_saved_copied_and_retrained_tokenizers_are_equal(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    others = [
        BPETokenizer.load(tmp_path, 16),
        BPETokenizer.load(tmp_path / "tokenizer.json", 16),
        BPETokenizer.load(str(tmp_path), 16),
        pickle.loads(pickle.dumps(tokenizer)),
        BPETokenizer.train(iter(CORPUS), 400, 16),
    ]
    for other in others:
        assert torch.equal(other(TEXTS), tokenizer(TEXTS))
        assert (other.vocab_size, other.eos_id, other.pad_id) == (tokenizer.vocab_size, 1, 0)
    assert torch.equal(BPETokenizer.load(tmp_path, 64)(TEXTS[:1])[:, :16][0, :8], tokenizer(TEXTS[:1])[0, :8])


def test_text_is_canonical_before_it_is_split(tokenizer: BPETokenizer) -> None:
    """SigLIP's canonicalisation in plain Python."""

    def canonical(text: str) -> str:
        text = unicodedata.normalize("NFKC", text).lower().replace("_", " ")
        text = text.translate(str.maketrans("", "", string.punctuation))
        return re.sub(r"\s+", " ", text).strip()

    assert torch.equal(tokenizer(TEXTS), tokenizer([canonical(text) for text in TEXTS]))
    assert tokenizer.tokenizer.decode(tokenizer(TEXTS[:1])[0].tolist()).strip() == "a photo of 3 dogs and a red cat"


def words(*special: str) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate([*special, "[UNK]", "a", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def test_foreign_tokenizers(tmp_path: Path) -> None:
    bert = words("[PAD]", "[SEP]", "[CLS]")
    bert.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 1)]
    )
    bert.save(str(tmp_path / "tokenizer.json"))
    loaded = BPETokenizer.load(tmp_path, 4)
    assert loaded(["a dog", "a", "a dog a dog"]).tolist() == [[2, 4, 5, 1], [2, 4, 1, 0], [2, 4, 5, 1]]

    # No end token of its own making, and names that only the settings tell.
    words("<STOP>", "<FILL>").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadInput, match="eos_token"):
        BPETokenizer.load(tmp_path, 4)
    settings = {"eos_token": {"content": "<STOP>"}, "pad_token": "<FILL>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert BPETokenizer.load(tmp_path, 4)(["a dog a dog", "a"]).tolist() == [[3, 4, 3, 0], [3, 0, 1, 1]]


def test_a_byte_order_mark_is_no_part_of_a_tokenizer(tmp_path: Path) -> None:
    words("<STOP>", "<FILL>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<STOP>", "pad_token": "<FILL>"}')
    before = BPETokenizer.load(tmp_path, 4)(["a dog"]).tolist()
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert BPETokenizer.load(tmp_path, 4)(["a dog"]).tolist() == before


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tokenizer\.json does not exist"):
        BPETokenizer.load(tmp_path, 16)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        BPETokenizer.load(tmp_path, 16)
    with pytest.raises(BadInput, match="no caption"):
        BPETokenizer.train([], 400, 16)

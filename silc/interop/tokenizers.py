"""Other people's tokenizers as tokenizer.json files, which include the cleaning that their libraries do in Python.

| source                        | model               | cleaning, inside the file                                      |
| ----------------------------- | ------------------- | -------------------------------------------------------------- |
| open_clip's SimpleTokenizer   | its bundled BPE     | `lower`                                                        |
| open_clip's HFTokenizer       | tokenizer.json      | `whitespace`, `lower` or `canonicalize`, as its settings say   |
| transformers' SiglipTokenizer | spiece.model        | `siglip`: lower case; punctuation deleted, "_" too             |
| transformers' Siglip2         | tokenizer.json      | lower case                                                     |
| transformers' others          | tokenizer.json      | what is in the file                                            |
| big_vision                    | spiece.model, given | lower case                                                     |

Ids are equal to the libraries', except for texts with characters that ftfy repairs (other than quotes and ligatures),
with rare HTML entities, or with typed special tokens. A typed "</s>" is text here, not the end.
"""

from __future__ import annotations

import gzip
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from silc.data.tokenizer import BPETokenizer, ends_with, one_space, spelt_plainly, without
from silc.errors import BadInput
from silc.extras import needs
from silc.interop.files import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 49_152 - 256 - 2
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""Types of sentencepiece's pieces."""


def _repaired() -> list[Any]:
    """The first steps of open_clip: straight quotes and no ligatures (as by ftfy), then HTML entities decoded twice."""
    swaps = {"[\u2018-\u201b\u02bc]": "'", "[\u201c-\u201f]": '"'}
    swaps |= {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl"}
    entities = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": " "}
    rules = [*swaps.items(), *entities.items(), *entities.items()]
    return [*(normalizers.Replace(Regex(pattern), text) for pattern, text in rules), normalizers.NFC()]


CLEANING: dict[str, Callable[[], list[Any]]] = {
    "as it is": list,
    "lower case": lambda: [normalizers.Lowercase()],
    "siglip": lambda: [normalizers.Lowercase(), without(string.punctuation), *one_space()],
    "whitespace": lambda: [*_repaired(), *one_space()],
    "lower": lambda: [*_repaired(), *one_space(), normalizers.Lowercase()],
    "canonicalize": lambda: [*_repaired(), *spelt_plainly(), normalizers.Lowercase(), *one_space()],
}
"""Normalizers of each way to clean text (see the table above)."""


def load_tokenizer(path: Path, length: int, clean: str = "as it is") -> BPETokenizer:
    """Read a tokenizer from a tokenizer.json, a spiece.model, or a directory that holds one.

    Args:
        length: tokens per text.
        clean: cleaning of a text before the steps in the file itself.

    Raises:
        BadInput: there is no tokenizer, or it pads on the left.
    """
    if path.is_dir():
        files = [path / name for name in ("tokenizer.json", "spiece.model")]
        path = next((file for file in files if file.is_file()), files[0])
    if path.suffix == ".model":
        return from_sentencepiece(path, length, clean)
    settings = _settings(path.parent)
    if settings.get("padding_side", "right") != "right":
        raise BadInput(f"{path.parent}: the tokenizer pads on the left, which silc's towers were not made for")
    loaded = BPETokenizer.load(path, length)
    _prepend(loaded.tokenizer, CLEANING[clean]())
    return loaded


def find_tokenizer(directory: Path, length: int) -> BPETokenizer:
    """The tokenizer that transformers' AutoTokenizer would read from a model's directory.

    Raises:
        BadInput: there is no tokenizer that silc can read.
    """
    kind = _settings(directory).get("tokenizer_class", "")
    if kind == "SiglipTokenizer" and (directory / "spiece.model").is_file():
        return from_sentencepiece(directory / "spiece.model", length, "siglip")
    return load_tokenizer(directory, length, "lower case" if kind.startswith("Siglip2Tokenizer") else "as it is")


def clip_bpe(length: int = 77, clean: str = "lower") -> BPETokenizer:
    """CLIP's byte-pair encoding, from the merges in the open_clip package.

    It pads with the end token, as transformers does. open_clip pads with zeros; a causal tower ignores both, because
    they come after the end.

    Raises:
        BadInput: open_clip is not installed.
    """
    package = needs("CLIP's tokenizer, unless another is given,", "open_clip.tokenizer", "interop")
    with gzip.open(package.default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : CLIP_MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = _byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), BOS, EOS]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=EOS, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.normalizer = normalizers.Sequence(CLEANING[clean]())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])]
    )
    return BPETokenizer(tokenizer, length, eos=EOS, pad=EOS)


def from_sentencepiece(file: Path, length: int, clean: str) -> BPETokenizer:
    """Convert a sentencepiece unigram model to a tokenizer.json, which works without sentencepiece.

    Raises:
        BadInput: no such file, not a unigram model, or the libraries that read it are not installed.
    """
    proto = needs(f"reading {file}", "sentencepiece.sentencepiece_model_pb2", "interop").ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    except Exception as error:  # protobuf's own, whose place differs between releases
        raise BadInput(f"{file} is no sentencepiece model: {error}") from error
    trained, pieces = proto.trainer_spec, proto.pieces
    if trained.model_type != trained.UNIGRAM:
        raise BadInput(f"{file} is no unigram model; give the tokenizer.json that is made from it")
    tokenizer = Tokenizer(
        models.Unigram([(p.piece, p.score) for p in pieces], unk_id=trained.unk_id, byte_fallback=trained.byte_fallback)
    )
    own = [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)]
    squeezed = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(
        [*CLEANING[clean](), *(own if proto.normalizer_spec.precompiled_charsmap else []), *squeezed]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = [p.piece for p in pieces if p.type in (CONTROL, USER_DEFINED)]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in special])
    eos = trained.eos_piece
    if tokenizer.token_to_id(eos) is None:
        raise BadInput(f"{file} has no end token {eos}")
    tokenizer.post_processor = ends_with(tokenizer, eos)
    # Padded with the end token, as in SigLIP's training; big_vision calls this "sticky".
    return BPETokenizer(tokenizer, length, eos=eos, pad=eos)


def _prepend(tokenizer: Tokenizer, steps: Sequence[Any]) -> None:
    if steps:
        own = [tokenizer.normalizer] if tokenizer.normalizer else []
        tokenizer.normalizer = normalizers.Sequence([*steps, *own])


def _byte_letters() -> list[str]:
    """The 256 characters that represent bytes, in CLIP's order: printable bytes as themselves, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]


def _settings(directory: Path) -> Mapping[str, Any]:
    file = directory / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}

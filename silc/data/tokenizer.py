"""Text to ids with a tokenizer in Hugging Face's format: every library that loads the file gives the same ids.

The canonicaliser (lower case, no punctuation, single spaces: SigLIP's) is stored in the file, because libraries
differ when each canonicalises in its own code.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

PAD, EOS = "<pad>", "</s>"
USUAL_EOS = (EOS, "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]")
USUAL_PAD = (PAD, "[PAD]", "<|pad|>", "<pad_token>")


class BPETokenizer:
    """The towers' `Tokenizer`, built on a `tokenizers.Tokenizer`. It can be forked or pickled to worker processes."""

    def __init__(self, tokenizer: Tokenizer, context_length: int, *, eos: str = EOS, pad: str = PAD) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.eos, self.pad = eos, pad
        eos_id, pad_id = tokenizer.token_to_id(eos), tokenizer.token_to_id(pad)
        assert eos_id is not None
        assert pad_id is not None
        self.eos_id, self.pad_id = eos_id, pad_id
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        # "</s>" inside a caption is plain text, not the end token.
        tokenizer.encode_special_tokens = True
        # The post-processor adds the end token after truncation.
        tokenizer.enable_truncation(context_length)
        tokenizer.enable_padding(length=context_length, pad_id=self.pad_id, pad_token=pad)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Int64 ids [N, context_length], truncated and padded. A truncated text still ends with the end token."""
        encoded = self.tokenizer.encode_batch(list(texts))
        return torch.tensor([e.ids for e in encoded], dtype=torch.int64).reshape(len(encoded), self.context_length)

    def __reduce__(self) -> Any:
        return _restore, (self.tokenizer.to_str(), self.context_length, self.eos, self.pad)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, context_length: int) -> BPETokenizer:
        """Train a byte-level BPE. A small corpus gives fewer than `vocab_size` entries, but at least 258.

        Raises:
            BadInput: there is no caption to learn from.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), *spelt_plainly(), *one_space()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, EOS],  # ids 0 and 1
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        num_captions = 0

        def counted() -> Iterable[str]:
            nonlocal num_captions
            for caption in captions:
                num_captions += 1
                yield caption

        tokenizer.train_from_iterator(counted(), trainer)
        if not num_captions:
            raise BadInput("there is no caption to train a tokenizer on; check the shards, or name a tokenizer.json")
        tokenizer.post_processor = ends_with(tokenizer, EOS)
        return cls(tokenizer, context_length)

    @classmethod
    def load(cls, path: str | Path, context_length: int) -> BPETokenizer:
        """Load a tokenizer.json, from silc or elsewhere; `path` is the file or its directory.

        Raises:
            BadInput: there is no such file, the file is not valid, or the end or padding token is unknown.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise BadInput(f"tokenizer {file} does not exist; name a tokenizer.json or a directory that holds one")
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8-sig"))
        except Exception as error:  # tokenizers raises bare Exception
            raise BadInput(f"{file} is no tokenizer.json: {error}") from error
        settings = file.with_name("tokenizer_config.json")
        try:
            named = json.loads(settings.read_text(encoding="utf-8-sig")) if settings.is_file() else {}
        except ValueError as error:
            raise BadInput(f"{settings} is no JSON: {error}") from error
        eos = _special(tokenizer, file, "eos_token", named, USUAL_EOS)
        pad = _special(tokenizer, file, "pad_token", named, USUAL_PAD)
        if tokenizer.encode("a").ids[-1:] != [tokenizer.token_to_id(eos)]:
            steps = [tokenizer.post_processor] if tokenizer.post_processor else []
            tokenizer.post_processor = processors.Sequence([*steps, ends_with(tokenizer, eos)])
        return cls(tokenizer, context_length, eos=eos, pad=pad)

    def save(self, directory: str | Path, *, mask: bool = False) -> None:
        """Write tokenizer.json and tokenizer_config.json in the form that AutoTokenizer loads.

        Args:
            mask: if true, the loaded tokenizer returns the attention mask too. The mask changes SigLIP's text
                embedding, and the towers were trained without a mask. Processors of OWL-ViT fail without one.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        plain = Tokenizer.from_str(self.tokenizer.to_str())
        plain.no_truncation()
        plain.no_padding()
        plain.save(str(directory / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": self.eos,
            "pad_token": self.pad,
            "model_max_length": self.context_length,
            "padding_side": "right",
            "model_input_names": ["input_ids", "attention_mask"] if mask else ["input_ids"],
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _restore(serialized: str, context_length: int, eos: str, pad: str) -> BPETokenizer:
    return BPETokenizer(Tokenizer.from_str(serialized), context_length, eos=eos, pad=pad)


def without(marks: str) -> Any:
    """A normalizer that removes these characters."""
    return normalizers.Replace(Regex("[" + "".join(f"\\{mark}" for mark in marks) + "]"), "")


def one_space() -> list[Any]:
    """Normalizers that reduce white space to single spaces and strip both ends."""
    return [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def spelt_plainly() -> list[Any]:
    """Normalizers that replace "_" by a space and remove punctuation."""
    return [normalizers.Replace("_", " "), without(string.punctuation.replace("_", ""))]


def ends_with(tokenizer: Tokenizer, eos: str) -> Any:
    """A post-processor that appends the end token to every text."""
    return processors.TemplateProcessing(single=f"$A {eos}", special_tokens=[(eos, tokenizer.token_to_id(eos))])


def _special(tokenizer: Tokenizer, file: Path, role: str, named: dict[str, Any], usual: Sequence[str]) -> str:
    """The token that `named` has for a role (a string or {"content": ...}), else the first `usual` one that exists."""
    content = named.get(role)
    if isinstance(content, dict):
        content = content.get("content")
    for token in [content] if isinstance(content, str) else usual:
        if tokenizer.token_to_id(token) is not None:
            return token
    raise BadInput(f"{file} has no known {role}; name one of its tokens as {role} in tokenizer_config.json beside it")

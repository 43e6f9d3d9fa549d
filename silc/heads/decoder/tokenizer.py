"""The decoder's own tokenizer: byte-level BPE that keeps case and punctuation, with begin, end, and a way back to text.

The tokenizer of the model below removes both, and cannot decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from silc.errors import BadInput

PAD, END, BEGIN = "<pad>", "</s>", "<s>"
FILE = "tokenizer.json"


class TextTokenizer:
    """Text to ids and back. Special tokens that a given text contains are read as plain text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.encode_special_tokens = True
        self.pad, self.end, self.begin = (_id(tokenizer, name) for name in (PAD, END, BEGIN))

    @property
    def vocab_size(self) -> int:
        """Number of entries."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without begin and end tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end token."""
        listed = list(ids)
        kept = listed[: listed.index(self.end)] if self.end in listed else listed
        return str(self.tokenizer.decode([one for one in kept if one not in (self.pad, self.begin)]))

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _restored, (self.tokenizer.to_str(),)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> TextTokenizer:
        """Learn the entries from texts; few texts give fewer than `vocab_size`."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, END, BEGIN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Read tokenizer.json.

        Raises:
            BadInput: the file is missing, or is not such a tokenizer.
        """
        file = folder / FILE
        try:
            return _restored(file.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise BadInput(f"cannot read the decoder's tokenizer {file}: {error}") from error

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / FILE))


def _id(tokenizer: Tokenizer, name: str) -> int:
    found = tokenizer.token_to_id(name)
    if found is None:
        raise ValueError(f"it has no {name}")
    return int(found)


def _restored(serialized: str) -> TextTokenizer:
    return TextTokenizer(Tokenizer.from_str(serialized))

"""Inference with a trained decoder: captions and answers.

model = silc.load("out/decoder")
model.caption("street.jpg")
model.answer("street.jpg", "how many dogs are there?")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from silc.errors import BadInput
from silc.eval.captioning import CAPTION, not_learnt, writes_nothing
from silc.heads.decoder.generate import Writing, write
from silc.inputs import in_batches, open_image
from silc.predict import Model, text_list

if TYPE_CHECKING:
    from PIL import Image

    from silc.heads.decoder.learner import Teller
    from silc.heads.decoder.texts import Texts
    from silc.inputs import Picture, Pictures

GREEDY = Writing()


def writing_model(model: Model) -> TextModel:
    """Return the model itself, if it writes text.

    Raises:
        BadInput: it does not.
    """
    if not isinstance(model, TextModel):
        raise BadInput(writes_nothing(model.name))
    return model


@dataclass(repr=False)
class TextModel(Model):
    """A model that writes: a `Writer` of `encoder.py`."""

    teller: Teller = field(kw_only=True)
    text: Texts = field(kw_only=True)
    prefixes: Sequence[str] = field(kw_only=True)

    @property
    def record(self) -> Mapping[str, Any]:
        """Facts about the model for the records of its scores."""
        shape = self.teller.decoder.shape
        return {
            "head": f"decoder of {shape.depth} blocks, width {shape.width}",
            "image_size": self.preprocess.size,
            "resize": f"{self.preprocess.resize}, {self.preprocess.interpolation}",
            "tokens": self.text.half,
        }

    def write(
        self, images: Sequence[Image.Image], prefix: str, questions: Sequence[str] = (), how: Writing = GREEDY
    ) -> list[str]:
        """Write a text for each image; see `Writer`."""
        if prefix not in self.prefixes:
            raise BadInput(not_learnt(self.name, self.prefixes, prefix))
        if questions and len(questions) != len(images):
            raise BadInput(f"{len(images)} images and {len(questions)} questions; give one question per image")
        room = self.text.half  # the lengths of other prompts do not matter
        how = replace(how, most=min(how.most or room, room))
        asked = [self.text.prompt(prefix, question) for question in questions or [""] * len(images)]
        with torch.no_grad(), self._computing():
            memory = self.teller.look(self.pixels(list(images)))
            written = write(self.teller.decoder, memory, asked, self.text.tokenizer.end, how)
        return [self.text.read(ids) for ids in written]

    def caption(self, images: Pictures, how: Writing = GREEDY, *, batch_size: int = 32) -> list[str]:
        """A caption of each image.

        Raises:
            BadInput: the model has not learnt captions; an input is no image (`silc.inputs`).
        """
        told = list[str]()
        for some in in_batches(images, batch_size):
            numbered = replace(how, first=how.first + len(told))
            told += self.write([open_image(image) for image in some], CAPTION, how=numbered)
        return told

    def answer(self, image: Picture, question: str, how: Writing = GREEDY, *, prefix: str = "") -> str:
        """The answer to a question about an image.

        Args:
            prefix: prefix of the task; default: the first task with questions.

        Raises:
            BadInput: the model has learnt no questions; the question is empty; the input is no image (`silc.inputs`).
        """
        (asked,) = text_list(question)
        if not asked.strip():
            raise BadInput("the question is empty; ask e.g. 'how many dogs are there?'")
        return self.write([open_image(image)], self.asking(prefix), [asked], how)[0]

    def asking(self, prefix: str = "") -> str:
        """The prefix of a task with questions.

        Raises:
            BadInput: the model has learnt no such task, or not this one.
        """
        known = [one for one in self.prefixes if one != CAPTION]
        if not known:
            raise BadInput(f"{self.name} has learnt no questions; train it on --data.train 'vqa:DATA'")
        if prefix and prefix not in known:
            raise BadInput(f"{self.name} has learnt questions of {' and '.join(known)}, not {prefix}")
        return prefix or known[0]

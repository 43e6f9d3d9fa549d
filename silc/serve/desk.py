"""Take in requests: pictures are decoded and kept, questions wait for the thread that computes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import silc
from silc.eval.pictures import colour
from silc.eval.prompts import template_sets
from silc.eval.protocols import SLIDING_WINDOW
from silc.serve import schema
from silc.serve.answers import Answers
from silc.serve.computing import Computing
from silc.serve.config import Limits
from silc.serve.decoding import Decoder
from silc.serve.examples import Drawn
from silc.serve.pictures import Pictures, name_of
from silc.serve.turns import Turns, to_its_end

if TYPE_CHECKING:
    from silc.predict import Model

A = TypeVar("A", bound=schema.Request)
B = TypeVar("B")


class Desk:
    """The pictures, the models, and the queues for them."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, examples: Sequence[Drawn]) -> None:
        self.limits = limits
        self.pictures = Pictures(limits.kept_bytes)
        self.decoder = Decoder(limits)
        self.answers = Answers(models, self.pictures.__getitem__)
        self._computing = Computing(limits.waiting, limits.compute_seconds)
        self._encoding = Turns(limits.waiting)
        for one in examples:
            self.pictures.pin(one.id, one.image)
        self.info = self._info(examples)

    async def take(self, data: bytes) -> schema.PictureAnswer:
        """Decode a picture and keep it.

        Raises:
            BadImage, Busy: as `Decoder.decode`.
        """
        name = name_of(data)
        if name not in self.pictures:
            self.pictures.keep(name, await self.decoder.decode(data))
        image = self.pictures[name]
        return schema.PictureAnswer(id=name, width=image.width, height=image.height)

    async def png(self, name: str) -> bytes:
        """A picture's pixels as the models see them, as a PNG file.

        Raises:
            NoPicture: there is none of this name.
            Busy: too many wait.
        """
        image, buffer = self.pictures[name], io.BytesIO()
        async with self._encoding.one():
            write = partial(image.save, buffer, "PNG", compress_level=1)
            await to_its_end(asyncio.get_running_loop().run_in_executor(None, write))
        return buffer.getvalue()

    async def answer(self, question: Callable[[A], B], asked: A) -> B:
        """Wait for a turn, then return what a method of `answers` gives.

        Raises:
            NoPicture: a picture is not there.
            BadInput: the model cannot answer this.
            Busy: too many wait.
        """
        for name in asked.pictures:
            self.pictures[name]  # raises before it waits; marks the picture as recently used
        return await self._computing.run(partial(question, asked))

    async def close(self) -> None:
        """End the process and the thread."""
        await self.decoder.close()
        self._computing.close()

    def _info(self, examples: Sequence[Drawn]) -> schema.ServerInfo:
        return schema.ServerInfo(
            version=silc.__version__,
            models=[self.answers.describe(name) for name in self.answers.models],
            templates=template_sets(),
            windows=list(SLIDING_WINDOW),
            examples=[
                schema.Example(
                    id=one.id, width=one.image.width, height=one.image.height, title=one.title, names=list(one.names)
                )
                for one in examples
            ],
            colours=[colour(index) for index in range(schema.MOST_NAMES)],
            picture_bytes=self.limits.picture_bytes,
            pixels=self.limits.pixels,
            most_names=schema.MOST_NAMES,
        )

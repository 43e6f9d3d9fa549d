"""What a decoder writes: greedily, by beams, or drawn. Many texts at a time, each token read once (a cache).

Beams are those of transformers' `generate`: sums of log-probabilities over length to a power, the end counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.streams import stream
from silc.errors import BadInput
from silc.heads.decoder.model import Cache, TextDecoder


@dataclass(frozen=True)
class Writing:
    """How it is written: greedily, with several beams, or, with a temperature, drawn.

    Raises:
        BadInput: values that mean nothing, or beams with a temperature.
    """

    most: int | None = None
    """Tokens at most; None: as many as there is room for."""
    beams: int = 1
    length_power: float = 1.0
    """Of beams: the power of the length that sums of log-probabilities are divided by."""
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Tokens are drawn from the likeliest that make up this share."""
    seed: int = 0
    first: int = 0
    """Number of the first text: each is drawn by seed and number, whatever stands beside it."""

    def __post_init__(self) -> None:
        whole = (self.most is None or self.most >= 1) and self.beams >= 1 and self.seed >= 0 and self.first >= 0
        if not (
            whole and 0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and math.isfinite(self.length_power)
        ):
            raise BadInput(
                "writing takes most and beams of at least 1, a seed and a temperature of at least 0, top_p above 0 up "
                f"to 1 and a finite length_power; got {self}"
            )
        if self.beams > 1 and self.temperature:
            raise BadInput(f"{self.beams} beams are not drawn: leave temperature {self.temperature} out, or beams")


@torch.no_grad()
def write(
    decoder: TextDecoder, memory: Tensor, prompts: Sequence[Sequence[int]], end: int, how: Writing
) -> list[list[int]]:
    """The ids that follow each prompt, without the end.

    Args:
        memory: images' tokens [B, T, C].
        prompts: B lists of ids, begun; with what follows they fit the decoder's length.
    """
    room = decoder.shape.length - max(map(len, prompts))
    if room < 1:
        raise BadInput(f"a prompt of {max(map(len, prompts))} tokens leaves no room in {decoder.shape.length}")
    most = min(how.most or room, room)
    reading = Reading.of(decoder, memory, prompts)
    if how.beams > 1:
        return _by_beams(reading, end, most, how)
    return _one_by_one(reading, end, most, how)


@dataclass
class Reading:
    """B texts that are being written: where each stands, and what may follow."""

    decoder: TextDecoder
    cache: Cache
    places: Tensor  # int64 [B], of the next token
    scores: Tensor  # [B, V] log-probabilities

    @classmethod
    def of(cls, decoder: TextDecoder, memory: Tensor, prompts: Sequence[Sequence[int]]) -> Reading:
        """After the prompts."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=memory.device)
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64, device=memory.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(list(prompt), device=memory.device)
        places = torch.arange(ids.shape[1], device=memory.device).expand_as(ids)
        logits, cache = decoder.read(ids, places, decoder.begin(memory))
        last = logits[torch.arange(len(prompts), device=memory.device), lengths - 1]
        return cls(decoder, cache, lengths, F.log_softmax(last.float(), dim=-1))

    def take(self, tokens: Tensor) -> None:
        """Go on with a token each, int64 [B]."""
        logits, self.cache = self.decoder.read(tokens[:, None], self.places[:, None], self.cache)
        self.places = self.places + 1
        self.scores = F.log_softmax(logits[:, 0].float(), dim=-1)

    def side_by_side(self, times: int) -> None:
        """Go on with each text so many times, one behind the other."""
        rows = torch.arange(len(self.places), device=self.places.device).repeat_interleave(times)
        self.cache, self.places, self.scores = self.cache.of_rows(rows), self.places[rows], self.scores[rows]


def _one_by_one(reading: Reading, end: int, most: int, how: Writing) -> list[list[int]]:
    """The likeliest token, or a drawn one, until all have ended."""
    draws = [stream("write", how.seed, how.first + row) for row in range(len(reading.places))]
    tokens = torch.empty(len(reading.places), 0, dtype=torch.int64)
    ended = torch.zeros(len(reading.places), dtype=torch.bool)
    while True:
        if how.temperature:
            chosen = drawn(reading.scores.cpu(), how, torch.tensor([draw.random() for draw in draws]))
        else:
            chosen = reading.scores.argmax(dim=-1).cpu()
        chosen = torch.where(ended, end, chosen)
        tokens, ended = torch.cat([tokens, chosen[:, None]], dim=1), ended | (chosen == end)
        if ended.all() or tokens.shape[1] == most:
            return [_until(row, end) for row in tokens.tolist()]
        reading.take(chosen.to(reading.places.device))


def drawn(scores: Tensor, how: Writing, draws: Tensor) -> Tensor:
    """Tokens int64 [B] by their log-probabilities [B, V], likeliest first, where draws [B] from 0 to 1 fall."""
    ranked, places = (scores.double() / how.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached = ranked.cumsum(dim=-1)
    kept = (reached - ranked < how.top_p).sum(dim=-1, keepdim=True)  # the one that reaches the share is in
    at = torch.searchsorted(reached, draws.double()[:, None] * reached.gather(1, kept - 1), right=True)
    return places.gather(1, at.minimum(kept - 1))[:, 0]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


@dataclass
class Ended:
    """The best texts of an image that have ended, as (score, tokens)."""

    most: int
    found: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, score: float, tokens: list[int]) -> None:
        """Keep it if it is among the best; of equals the earlier ones stay."""
        self.found = sorted([*self.found, (score, tokens)], key=lambda one: -one[0])[: self.most]

    def closed(self, reachable: float) -> bool:
        """Whether nothing that is at most so good gets in any more."""
        return len(self.found) == self.most and self.found[-1][0] >= reachable


def _by_beams(reading: Reading, end: int, most: int, how: Writing) -> list[list[int]]:
    """For each image the best of its ended beams, or of those that ran out of room."""
    images, beams, vocabulary = len(reading.places), how.beams, reading.scores.shape[1]
    device = reading.places.device
    reading.side_by_side(beams)
    sums = torch.full((images, beams), -torch.inf)
    sums[:, 0] = 0  # at first all beams of an image are the same
    texts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(images)]
    ended, done = [Ended(beams) for _ in range(images)], [False] * images
    for length in range(1, most + 1):
        totals = (sums.to(device)[:, :, None] + reading.scores.view(images, beams, vocabulary)).flatten(1)
        best, places = totals.topk(2 * beams, dim=1)
        rows, tokens = torch.zeros(images, beams, dtype=torch.int64), torch.full((images, beams), end)
        for image, (values, at) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            going = list[tuple[float, int, int]]()
            for rank, (value, place) in enumerate(zip(values, at, strict=True)):
                beam, token = divmod(place, vocabulary)
                if token != end:
                    going.append((value, beam, token))
                elif rank < beams and not done[image]:
                    ended[image].add(value / length**how.length_power, texts[image][beam])
            going = going[:beams]
            texts[image] = [[*texts[image][beam], token] for _, beam, token in going]
            sums[image] = torch.tensor([value for value, _, _ in going])
            rows[image] = torch.tensor([image * beams + beam for _, beam, _ in going])
            tokens[image] = torch.tensor([token for _, _, token in going])
            done[image] = done[image] or ended[image].closed(going[0][0] / length**how.length_power)
            if length == most and not done[image]:
                for (value, _, _), text in zip(going, texts[image], strict=True):
                    ended[image].add(value / length**how.length_power, text)
        if all(done) or length == most:
            break
        reading.cache = reading.cache.moved(rows.flatten().to(device))
        reading.take(tokens.flatten().to(device))
    return [one.found[0][1] for one in ended]

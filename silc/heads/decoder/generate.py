"""Text generation: greedy, by beam search, or by sampling. Many texts at a time; with a cache, each token is read once.

Beam search is that of transformers' `generate`: a score is the sum of log-probabilities divided by a power of the
length. The length counts the end token.
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
    """How to generate: greedily, by beam search with several beams, or by sampling with a temperature.

    Raises:
        BadInput: invalid values, or beams together with a temperature.
    """

    most: int | None = None
    """Maximum tokens; None: as many as there is room for."""
    beams: int = 1
    length_power: float = 1.0
    """For beam search: sums of log-probabilities are divided by the length to this power."""
    temperature: float = 0.0
    """Sampling temperature; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Sample only from the likeliest tokens that together reach this probability."""
    seed: int = 0
    first: int = 0
    """Number of the first text. How a text is sampled depends on seed and number, not on the other texts of a batch."""

    def __post_init__(self) -> None:
        whole = (self.most is None or self.most >= 1) and self.beams >= 1 and self.seed >= 0 and self.first >= 0
        if not (
            whole and 0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and math.isfinite(self.length_power)
        ):
            raise BadInput(
                "writing needs most and beams of at least 1, a seed and a temperature of at least 0, top_p above 0 "
                f"and at most 1, and a finite length_power; got {self}"
            )
        if self.beams > 1 and self.temperature:
            raise BadInput(f"{self.beams} beams use no temperature: leave out temperature {self.temperature} or beams")


@torch.no_grad()
def write(
    decoder: TextDecoder, memory: Tensor, prompts: Sequence[Sequence[int]], end: int, how: Writing
) -> list[list[int]]:
    """Generate the ids that follow each prompt, without the end token.

    Args:
        memory: images' tokens [B, T, C].
        prompts: B lists of ids that start with the begin token; prompt and new tokens fit the decoder's length.
    """
    room = decoder.shape.length - max(map(len, prompts))
    if room < 1:
        raise BadInput(
            f"a prompt of {max(map(len, prompts))} tokens leaves no room for an answer; the limit of both is "
            f"{decoder.shape.length} tokens"
        )
    most = min(how.most or room, room)
    reading = Reading.of(decoder, memory, prompts)
    if how.beams > 1:
        return _by_beams(reading, end, most, how)
    return _one_by_one(reading, end, most, how)


@dataclass
class Reading:
    """State of B texts during generation: the next place of each, and the scores of its next token."""

    decoder: TextDecoder
    cache: Cache
    places: Tensor  # int64 [B], of the next token
    scores: Tensor  # [B, V] log-probabilities

    @classmethod
    def of(cls, decoder: TextDecoder, memory: Tensor, prompts: Sequence[Sequence[int]]) -> Reading:
        """The state after the prompts are read."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=memory.device)
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64, device=memory.device)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(list(prompt), device=memory.device)
        places = torch.arange(ids.shape[1], device=memory.device).expand_as(ids)
        logits, cache = decoder.read(ids, places, decoder.begin(memory))
        last = logits[torch.arange(len(prompts), device=memory.device), lengths - 1]
        return cls(decoder, cache, lengths, F.log_softmax(last.float(), dim=-1))

    def take(self, tokens: Tensor) -> None:
        """Append one token to each text, int64 [B]."""
        logits, self.cache = self.decoder.read(tokens[:, None], self.places[:, None], self.cache)
        self.places = self.places + 1
        self.scores = F.log_softmax(logits[:, 0].float(), dim=-1)

    def side_by_side(self, times: int) -> None:
        """Repeat each text `times` times; its copies are next to each other."""
        rows = torch.arange(len(self.places), device=self.places.device).repeat_interleave(times)
        self.cache, self.places, self.scores = self.cache.of_rows(rows), self.places[rows], self.scores[rows]


def _one_by_one(reading: Reading, end: int, most: int, how: Writing) -> list[list[int]]:
    """Append the likeliest token, or a sampled one, until all texts have ended."""
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
    """Sample tokens int64 [B] from scores [B, V]: each draw [B], 0 to 1, is a place in summed probabilities."""
    ranked, places = (scores.double() / how.temperature).softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached = ranked.cumsum(dim=-1)
    kept = (reached - ranked < how.top_p).sum(dim=-1, keepdim=True)  # the token that reaches top_p is kept
    at = torch.searchsorted(reached, draws.double()[:, None] * reached.gather(1, kept - 1), right=True)
    return places.gather(1, at.minimum(kept - 1))[:, 0]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens


@dataclass
class Ended:
    """The best finished texts of an image, as (score, tokens)."""

    most: int
    found: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, score: float, tokens: list[int]) -> None:
        """Keep a text if it is among the best; of texts with equal scores the earlier ones stay."""
        self.found = sorted([*self.found, (score, tokens)], key=lambda one: -one[0])[: self.most]

    def closed(self, reachable: float) -> bool:
        """Whether the list is full, and no text with a score of at most `reachable` can enter it."""
        return len(self.found) == self.most and self.found[-1][0] >= reachable


def _by_beams(reading: Reading, end: int, most: int, how: Writing) -> list[list[int]]:
    """Beam search: for each image the best of its finished beams, or of those that reached the maximum length."""
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

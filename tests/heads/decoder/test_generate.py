"""Greedy, beam and sampled decoding: against transformers' and against a search without a cache."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.errors import BadInput
from silc.heads.decoder.generate import Writing, drawn, write
from silc.heads.decoder.model import Shape, TextDecoder

END = 1
SHAPE = Shape(depth=1, width=16, heads=2, mlp=16, vocab_size=7, length=12, source=8)
PROMPTS = [[2, 3], [2, 5, 6, 4], [2]]


@pytest.fixture
def decoder() -> TextDecoder:
    made = TextDecoder(SHAPE).eval()
    torch.nn.init.normal_(made.out.weight, std=0.7)
    return made


@pytest.fixture
def memory() -> Tensor:
    return torch.randn(3, 4, 8)


def greedily(decoder: TextDecoder, memory: Tensor, prompt: list[int], most: int) -> list[int]:
    """Without a cache, one text alone."""
    ids = list(prompt)
    for _ in range(most):
        token = int(decoder(torch.tensor([ids]), memory)[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.no_grad()
def test_greedy_equals_a_loop_without_cache(decoder: TextDecoder, memory: Tensor) -> None:
    together = write(decoder, memory, PROMPTS, END, Writing(most=6))
    for row, prompt in enumerate(PROMPTS):
        assert together[row] == greedily(decoder, memory[row : row + 1], prompt, 6)
        assert write(decoder, memory[row : row + 1], [prompt], END, Writing(most=6)) == [together[row]]
    assert any(together)


def test_one_beam_is_greedy(decoder: TextDecoder, memory: Tensor) -> None:
    """By the search of beams itself."""
    from silc.heads.decoder.generate import Reading, _by_beams

    greedy = write(decoder, memory, PROMPTS, END, Writing(most=6))
    with torch.no_grad():
        assert _by_beams(Reading.of(decoder, memory, PROMPTS), END, 6, Writing(most=6)) == greedy


@torch.no_grad()
def test_many_beams_find_the_best_of_all(decoder: TextDecoder, memory: Tensor) -> None:
    """Of all texts of up to three tokens, the best by its mean log-probability, the end counted."""

    def score(text: tuple[int, ...], prompt: list[int], own: Tensor) -> float:
        logits = F.log_softmax(decoder(torch.tensor([[*prompt, *text]]), own)[0], dim=-1)
        sums = sum(logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(text))
        return sums / len(text)

    others = [token for token in range(7) if token != END]
    for row, prompt in enumerate(PROMPTS):
        own = memory[row : row + 1]
        ended = [(*body, END) for length in range(3) for body in product(others, repeat=length)]
        texts = [*ended, *product(others, repeat=3)]
        best = max(texts, key=lambda text: score(text, prompt, own))
        (found,) = write(decoder, own, [prompt], END, Writing(most=3, beams=200))
        assert found == [token for token in best if token != END]


@pytest.mark.parametrize("beams", [1, 2, 4])
def test_transformers_writes_the_same(beams: int, decoder: TextDecoder, memory: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_outputs import CausalLMOutput

    class Peer(transformers.PreTrainedModel, transformers.GenerationMixin):  # type: ignore[misc,name-defined]
        config_class = transformers.PretrainedConfig

        def __init__(self) -> None:
            super().__init__(transformers.PretrainedConfig(vocab_size=7, num_hidden_layers=1, hidden_size=16))
            self.decoder = decoder

        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            rows = memory.repeat_interleave(len(input_ids) // len(memory), dim=0)
            return CausalLMOutput(logits=self.decoder(input_ids, rows))

        def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Tensor]:
            return {"input_ids": input_ids}

    prompts = [[2, 3], [2, 5], [2, 6]]
    how: Any = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8, "use_cache": False}
    theirs = Peer().generate(torch.tensor(prompts), eos_token_id=END, pad_token_id=0, **how)
    ours = write(decoder, memory, prompts, END, Writing(most=8, beams=beams))
    for mine, row in zip(ours, theirs[:, 2:].tolist(), strict=True):
        assert mine == (row[: row.index(END)] if END in row else row)


def test_drawn_texts_follow_their_probabilities() -> None:
    probabilities = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    draws = torch.arange(20_000) / 20_000
    for how, wanted in (
        ({}, [0.15, 0.5, 0.05, 0.3]),
        ({"top_p": 0.7}, [0, 5 / 8, 0, 3 / 8]),
        ({"top_p": 0.1}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [0.0225 / 0.365, 0.25 / 0.365, 0.0025 / 0.365, 0.09 / 0.365]),
    ):
        tokens = drawn(probabilities.log().expand(20_000, 4), Writing(**{"temperature": 1.0} | how), draws)
        assert torch.bincount(tokens, minlength=4).div(20_000).tolist() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 0.9), (2.0, 0.5), (1.0, 1.0)])
def test_what_may_be_drawn_is_what_transformers_leaves(temperature: float, top_p: float) -> None:
    transformers = pytest.importorskip("transformers")
    scores = torch.randn(40, 11).log_softmax(dim=-1)
    left = scores
    for warped in (transformers.TemperatureLogitsWarper(temperature), transformers.TopPLogitsWarper(top_p)):
        left = warped(None, left)
    draws = (torch.arange(4000) + 0.5) / 4000
    for own, theirs in zip(scores, left.softmax(dim=-1), strict=True):
        tokens = drawn(own.expand(4000, 11), Writing(temperature=temperature, top_p=top_p), draws)
        assert torch.allclose(torch.bincount(tokens, minlength=11) / 4000, theirs, atol=3e-4)


def test_a_cold_draw_is_greedy_and_a_seed_repeats(decoder: TextDecoder, memory: Tensor) -> None:
    greedy = write(decoder, memory, PROMPTS, END, Writing(most=6))
    assert write(decoder, memory, PROMPTS, END, Writing(most=6, temperature=1e-4)) == greedy
    one, two = (write(decoder, memory, PROMPTS, END, Writing(most=6, temperature=2.0, seed=3)) for _ in range(2))
    assert one == two
    assert one != write(decoder, memory, PROMPTS, END, Writing(most=6, temperature=2.0, seed=4))


def test_a_drawn_text_does_not_depend_on_its_neighbours(decoder: TextDecoder, memory: Tensor) -> None:
    same = memory[:1].expand(8, -1, -1)
    together = write(decoder, same, [[2, 3]] * 8, END, Writing(most=6, temperature=3.0))
    assert len(set(map(tuple, together))) > 4  # many texts of one image
    for number, text in enumerate(together):
        assert write(decoder, same[:1], [[2, 3]], END, Writing(most=6, temperature=3.0, first=number)) == [text]


def test_a_text_may_take_all_the_room_there_is(decoder: TextDecoder, memory: Tensor) -> None:
    with torch.no_grad():
        decoder.out.weight[END] = 0
        decoder.norm.bias.fill_(1)
        decoder.out.weight[5] = 9  # always the likeliest
    written = write(decoder, memory, PROMPTS, END, Writing())
    assert written == [[5] * (SHAPE.length - max(map(len, PROMPTS)))] * 3
    with pytest.raises(
        BadInput, match="a prompt of 12 tokens leaves no room for an answer; the limit of both is 12 tokens"
    ):
        write(decoder, memory[:1], [[2] * 12], END, Writing())


@pytest.mark.parametrize(
    "how",
    [
        *({"most": 0}, {"beams": 0}, {"top_p": 0.0}, {"seed": -1}, {"length_power": float("nan")}),
        *({"temperature": value} for value in (-1.0, float("nan"), float("inf"))),
    ],
)
def test_what_means_nothing_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="writing needs"):
        Writing(**how)
    with pytest.raises(BadInput, match="beams use no temperature"):
        Writing(beams=2, temperature=1.0)

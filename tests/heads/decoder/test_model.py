"""The decoder against a float64 loop, and read token by token against all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from silc.heads.decoder.model import Attention, Shape, TextDecoder, Whitened, answer_loss

SHAPE = Shape(depth=2, width=16, heads=4, mlp=24, vocab_size=11, length=9, source=12)
WHITENED = SHAPE._replace(whitened=True)


def made(shape: Shape = SHAPE) -> TextDecoder:
    """A decoder in float64 whose output layer, zero at first, says something."""
    decoder = TextDecoder(shape).double().eval()
    torch.nn.init.normal_(decoder.out.weight, std=1.0)
    if shape.whitened:
        decoder.facing.set_from(2 + 3 * torch.randn(20, shape.source))
    return decoder


def attended(part: Attention, x: Tensor, source: Tensor, causal: bool) -> Tensor:
    """Attention of one text [L, W] by loops over heads and tokens."""
    width, heads = x.shape[1], part.heads
    size = width // heads
    q, k, v = x @ part.q.weight.T, source @ part.k.weight.T, source @ part.v.weight.T
    rows = []
    for place in range(len(x)):
        found = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            seen = place + 1 if causal else len(source)
            scores = torch.stack([q[place, own] @ k[other, own] / math.sqrt(size) for other in range(seen)])
            weights = scores.exp() / scores.exp().sum()
            found.append(sum(weights[other] * v[other, own] for other in range(seen)))
        rows.append(torch.cat(found))
    return torch.stack(rows) @ part.out.weight.T


def by_loops(decoder: TextDecoder, ids: Tensor, memory: Tensor) -> Tensor:
    """Logits [L, V] of one text [L] and one image's tokens [T, C]."""
    if decoder.shape.whitened:
        memory = torch.stack([decoder.facing.weight @ token + decoder.facing.bias for token in memory])
    x = torch.stack([decoder.tokens.weight[one] + decoder.positions[place] for place, one in enumerate(ids)])
    for block in decoder.blocks:
        h = block.norm1(x)
        x = x + attended(block.attn, h, h, causal=True)
        x = x + attended(block.cross, block.norm2(x), memory, causal=False)
        h = block.norm3(x) @ block.mlp[0].weight.T + block.mlp[0].bias
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block.mlp[2].weight.T + block.mlp[2].bias
    return decoder.norm(x) @ decoder.out.weight.T


def loss_by_loops(decoder: TextDecoder, ids: Tensor, answers: Tensor, memory: Tensor) -> Tensor:
    losses = []
    for row in range(len(ids)):
        logits = by_loops(decoder, ids[row], memory[row])
        own = [
            -(logits[place - 1].exp() / logits[place - 1].exp().sum()).log()[ids[row, place]]
            for place in range(1, ids.shape[1])
            if answers[row, place]
        ]
        losses.append(sum(own) / len(own))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("shape", [SHAPE, WHITENED])
def test_logits_loss_and_gradients_equal_loops(shape: Shape) -> None:
    decoder = made(shape)
    ids = torch.tensor([[2, 5, 3, 7, 1, 0], [2, 4, 9, 9, 6, 1]])
    answers = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    memory = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    logits = decoder(ids, memory)
    for row in range(2):
        assert torch.allclose(logits[row], by_loops(decoder, ids[row], memory[row]), atol=1e-12)
    wanted = [*decoder.parameters(), memory]
    ours = torch.autograd.grad(answer_loss(logits, ids, answers), wanted)
    loss = loss_by_loops(decoder, ids, answers, memory)
    theirs = torch.autograd.grad(loss, wanted)
    assert answer_loss(logits, ids, answers).item() == pytest.approx(loss.item(), abs=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert sum(one.abs().sum() > 0 for one in ours) == len(ours)


def test_what_is_asked_is_not_learnt() -> None:
    """Other targets in prompt and filling change nothing of the loss."""
    decoder, memory = made(), torch.randn(1, 5, 12, dtype=torch.float64)
    ids = torch.tensor([[2, 5, 3, 7, 1, 0]])
    answers = torch.tensor([[0, 0, 0, 1, 1, 0]], dtype=torch.bool)
    logits = decoder(ids, memory).detach()
    other = ids.clone()
    other[0, 1:3], other[0, 5] = torch.tensor([8, 9]), 4
    assert answer_loss(logits, ids, answers) == answer_loss(logits, other, answers)
    assert answer_loss(logits, ids, answers) != answer_loss(logits, ids, ~answers)


@pytest.mark.parametrize("shape", [SHAPE, WHITENED])
def test_read_with_a_cache_equals_all_at_once(shape: Shape) -> None:
    """Texts of three lengths, filled up at the right, then one token a time."""
    decoder, memory = made(shape), torch.randn(3, 5, 12, dtype=torch.float64)
    ids = torch.randint(11, (3, 9))
    lengths = torch.tensor([4, 2, 1])
    whole = decoder(ids, memory)
    prompts = ids[:, :4].clone()
    prompts[1, 2:], prompts[2, 1:] = 0, 0
    logits, cache = decoder.read(prompts, torch.arange(4).expand(3, 4), decoder.begin(memory))
    for row, length in enumerate(lengths.tolist()):
        assert torch.allclose(logits[row, :length], whole[row, :length], atol=1e-12)
    for step in range(5):
        places = lengths + step
        logits, cache = decoder.read(ids.gather(1, places[:, None]), places[:, None], cache)
        for row, place in enumerate(places.tolist()):
            assert torch.allclose(logits[row, 0], whole[row, place], atol=1e-12)


def test_a_new_decoder_knows_nothing() -> None:
    decoder = TextDecoder(SHAPE)
    ids = torch.tensor([[2, 5, 3]])
    loss = answer_loss(decoder(ids, torch.randn(1, 5, 12)), ids, torch.tensor([[False, True, True]]))
    assert loss.item() == pytest.approx(math.log(11))


def test_whitened_tokens_do_not_correlate_and_have_variance_one() -> None:
    """The weight is the inverse root of scipy's matrix root; a direction without variance stays without."""
    turned, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    tokens = torch.randn(60, 12, dtype=torch.float64) * torch.arange(1, 13) @ turned + 5
    facing = Whitened(12).double()
    facing.set_from(tokens)
    seen = facing(tokens).detach().numpy()
    assert np.allclose(seen.mean(axis=0), 0, atol=1e-9)
    covariance = np.cov(tokens.numpy().T, bias=True)
    assert np.allclose(np.cov(seen.T, bias=True), np.eye(12), atol=1e-9)
    assert np.allclose(facing.weight.detach().numpy(), np.linalg.inv(sqrtm(covariance)), atol=1e-9)
    tokens[:, 1] = 2 * tokens[:, 0]
    facing.set_from(tokens)
    variances = np.linalg.eigvalsh(np.cov(facing(tokens).detach().numpy().T, bias=True))
    assert abs(variances[0]) < 1e-9
    assert (variances < 1 + 1e-9).all()

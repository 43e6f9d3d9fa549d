"""CAT-Seg in training: two towers and the head, from pixels and label maps to a loss.

The head has the weights of the aggregator and of two layers that upsample intermediate tokens for the decoder. Towers
and readout can be any that silc has. With a class token the default readout is CAT-Seg's: in the last block each token
gets its own value plus the class token's residual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.errors import BadInput
from silc.heads.catseg.aggregator import Aggregator
from silc.heads.run import Learnt, in_micro_batches
from silc.heads.tuning import TunedLearner
from silc.models.readouts import READOUTS, chosen
from silc.models.text import TextTower
from silc.training.protocols import ParamGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silc.heads.catseg.config import AggregatorConfig, CatSegConfig
    from silc.heads.label_maps import LabelledBatch
    from silc.models.image import ImageTower
    from silc.models.vit import Block
    from silc.preprocess import Preprocess
    from silc.training.protocols import Passes

OWN_READOUT = "class_residual"
"""CAT-Seg's own readout, for towers with a class token."""


def class_residual(block: Block, x: Tensor) -> Tensor:
    """Run the last block as CAT-Seg does, on tokens [B, T, C]: v + MLP(v), v = a token's value + the class token."""
    _, _, values = block.attn.split(block.norm1(x))
    x = block.attn.merge(values) + x[:, :1]
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


LastBlock = Callable[["Block", Tensor], Tensor]


def readouts(pool: str) -> dict[str, LastBlock | None]:
    """Dense readouts for the costs, default first, each with what replaces the last block; None: the block itself."""
    own: dict[str, LastBlock | None] = {OWN_READOUT: class_residual} if pool == "cls" else {}
    return own | READOUTS[pool]


class Head(nn.Module):
    """The weights that are trained besides the towers.

    Args:
        width: width of the image tower.
        embed_dim: D.
        prompts: P, per class.
    """

    def __init__(self, config: AggregatorConfig, width: int, embed_dim: int, prompts: int) -> None:
        super().__init__()
        self.upsample1 = nn.ConvTranspose2d(width, config.decoder_guidance[0], 2, 2)
        self.upsample2 = nn.ConvTranspose2d(width, config.decoder_guidance[1], 4, 4)
        self.transformer = Aggregator(config, embed_dim, prompts)

    def forward(self, patches: Tensor, layers: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Logits [B, T, 4 h, 4 w] of patches [B, h, w, D], two layers [B, h, w, W] and texts [T, P, D]."""
        first, second = (layer.permute(0, 3, 1, 2) for layer in layers)
        texts = texts.expand(len(patches), -1, -1, -1)
        out: Tensor = self.transformer(
            patches.permute(0, 3, 1, 2), texts, (self.upsample1(first), self.upsample2(second))
        )
        return out


class CatSeg(nn.Module):
    """Towers and head.

    Args:
        visual, text: the towers.
        preprocess: preprocessing of the model below; has mean and deviation of the pixels.
        embed_dim: D.
        prompts: P, per class.

    Raises:
        BadInput: the tower has no such layers or readout, or does not take images of that size.
    """

    def __init__(
        self,
        config: CatSegConfig,
        visual: ImageTower,
        text: TextTower,
        preprocess: Preprocess,
        embed_dim: int,
        prompts: int = 1,
    ) -> None:
        super().__init__()
        self.visual, self.text, self.preprocess = visual, text, preprocess
        self.size = config.size or config.crop
        self.layers = layers_of(config.layers, len(visual.trunk.blocks))
        known = readouts(visual.pool)
        self.readout = chosen(config.readout, known, f"{visual.pool} pooling")
        self.last_block = known[self.readout]
        width = visual.trunk.pos_embed.shape[-1]
        self.head = Head(config.aggregator, width, embed_dim, prompts)

    def seen(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Patches [B, h, w, D] in the space of the texts and two layers [B, h, w, W], of normalised pixels."""
        if pixels.shape[-1] != self.size:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)
        grid, tower = self.visual.grid(pixels), self.visual
        tokens = tower.trunk.tokens(pixels, layers=self.layers, last_block=self.last_block)
        layers = [tower.without_prefix(layer).unflatten(1, grid) for layer in tokens.layers]
        return tower.in_joint_space(tower.without_prefix(tokens.final), grid), layers

    def embedded(self, ids: Tensor) -> Tensor:
        """Unit-length text features [T, P, D] of ids int64 [T, P, L]."""
        texts: Tensor = F.normalize(self.text(ids.flatten(0, 1)), dim=-1).unflatten(0, ids.shape[:2])
        return texts

    def unread(self, num_classes: int) -> list[str]:
        """Names of parameters that get no gradient when `num_classes` classes are learnt."""
        last = f"visual.trunk.blocks.{len(self.visual.trunk.blocks) - 1}.attn.qkv.parametrizations.weight.0.q"
        filled = num_classes < self.head.transformer.num_classes
        fillers = [name for name, _ in self.named_parameters() if ".padding_" in name]
        return [last] * bool(self.last_block) + ([] if filled else fillers)

    def logits(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Logits [B, T, 4 h, 4 w] of normalised pixels [B, 3, S, S] and texts [T, P, D]."""
        out: Tensor = self.head(*self.seen(pixels), texts)
        return out

    def forward(self, pixels: Tensor, truth: Tensor, share: float, ids: Tensor) -> Learnt:
        """Binary cross-entropy [] over all pixels and classes.

        Args:
            pixels: uint8 [B, 3, S, S].
            truth: int [B, S, S]; a pixel whose value is not in [0, T) has no class: all its targets are 0.
            share: the loss is multiplied by this.
            ids: int64 [T, P, L], the prompts of the classes.
        """
        logits = self.logits(self.preprocess.normalize(pixels), self.embedded(ids))
        loss = bce(logits, truth) * share
        return Learnt(loss, {"loss/bce": loss.detach() / share})


def bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy [] of logits [B, T, h, w], upsampled, with one-hot truth int [B, H, W].

    For a pixel, this is the sum over classes of softplus(logit) - logit x target. No one-hot tensor is needed: the
    second term is the logit of the pixel's own class.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = F.interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False)
    truth = truth.long()
    labelled = (truth >= 0) & (truth < logits.shape[1])
    own = logits.gather(1, truth.where(labelled, 0)[:, None])[:, 0]
    return (F.softplus(logits).sum() - (own * labelled).sum()) / logits.numel()


def layers_of(asked: Sequence[int], depth: int) -> tuple[int, ...]:
    """The two blocks whose tokens guide the decoder, of a tower with `depth` blocks.

    >>> layers_of((), 12), layers_of((), 24), layers_of((3, 7), 9)
    ((3, 7), (7, 15), (3, 7))

    Raises:
        BadInput: the tower has no such block.
    """
    layers = tuple(asked) or (max(0, depth // 3 - 1), max(0, 2 * depth // 3 - 1))
    if wrong := [layer for layer in layers if not 0 <= layer < depth]:
        raise BadInput(f"layers names block {wrong[0]} of the image tower, which has blocks 0 to {depth - 1}")
    return layers


@dataclass
class CatSegLearner(TunedLearner):
    """The `Learner` of CAT-Seg.

    Args:
        model: towers and head, after `tuning.tune`.
        ids: int64 [T, P, L], the prompts of the training classes.
        tower_lr: fraction of the learning rate for the towers.
        micro_batch: images at a time; 0: all.
    """

    model: CatSeg
    ids: Tensor
    tower_lr: float = 0.01
    micro_batch: int = 0

    @property
    def module(self) -> nn.Module:
        return self.model

    def blocks(self) -> Iterable[nn.Module]:
        """Blocks of the towers, without the image tower's last block if a readout calls its parts directly."""
        image = list(self.model.visual.trunk.blocks)
        return [*(image[:-1] if self.model.last_block else image), *self.model.text.transformer.resblocks]

    def groups(self) -> Mapping[str, ParamGroup]:
        """Rate factor and decay of each parameter: `tower_lr` for towers; parameters of norms do not decay."""
        norms = {
            f"{path}.{name}"
            for path, part in self.model.named_modules()
            if isinstance(part, nn.LayerNorm | nn.GroupNorm)
            for name, _ in part.named_parameters(recurse=False)
        }
        return {
            name: ParamGroup(1.0 if name.startswith("head.") else self.tower_lr, name not in norms)
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def gradients(self, passes: Passes, batch: LabelledBatch, hyper: object) -> Learnt:
        """Compute the gradient of the whole batch, in one pass or in several."""
        ids = self.ids.to(batch.pixels.device)
        return in_micro_batches(passes, (batch.pixels, batch.truth), self.micro_batch, ids)

"""The decoder and the image tower in training: from pixels and texts to a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from silc.heads.decoder.model import TextDecoder, answer_loss
from silc.heads.run import Learnt, in_micro_batches
from silc.heads.tuning import TunedLearner
from silc.training.protocols import ParamGroup

if TYPE_CHECKING:
    from silc.heads.decoder.data import TextBatch
    from silc.heads.decoder.kept import KeptTokens
    from silc.models.image import ImageTower
    from silc.preprocess import Preprocess
    from silc.training.protocols import Passes


class Teller(nn.Module):
    """An image tower, frozen or not, and the decoder that looks at its tokens.

    Args:
        preprocess: preprocessing of the image tower.
        kept: disk cache of the tokens, for a frozen tower.
    """

    def __init__(
        self, visual: ImageTower, decoder: TextDecoder, preprocess: Preprocess, kept: KeptTokens | None = None
    ) -> None:
        super().__init__()
        self.visual, self.decoder, self.preprocess, self.kept = visual, decoder, preprocess, kept

    def look(self, images: Tensor) -> Tensor:
        """Tokens [B, T, C] of normalised images [B, 3, H, W], after the tower's last norm and before its pooling."""
        tokens: Tensor = self.visual.trunk.tokens(images).final
        return tokens

    def see(self, pixels: Tensor) -> Tensor:
        """Like `look`, for pixels uint8 [B, 3, S, S]; uses the cache if there is one."""

        def look(some: Tensor) -> Tensor:
            return self.look(self.preprocess.normalize(some))

        return look(pixels) if self.kept is None else self.kept.of(pixels, look)

    def forward(self, pixels: Tensor, ids: Tensor, answers: Tensor, share: float) -> Learnt:
        """Loss, multiplied by `share`, of a batch (`TextBatch`) or of some of its rows."""
        logits = self.decoder(ids, self.see(pixels))
        loss = answer_loss(logits, ids, answers)
        with torch.no_grad():
            right = (logits[:, :-1].argmax(dim=-1) == ids[:, 1:]) & answers[:, 1:]
            accuracy = right.sum() / answers[:, 1:].sum()
        return Learnt(loss * share, {"loss/text": loss.detach(), "token_accuracy": accuracy})


@dataclass
class TextLearner(TunedLearner):
    """The `Learner` of a decoder.

    Args:
        image_lr: fraction of the learning rate for the image tower, if it is trained.
        micro_batch: images at a time; 0: all.
    """

    teller: Teller
    image_lr: float = 0.1
    micro_batch: int = 0

    @property
    def module(self) -> nn.Module:
        return self.teller

    def blocks(self) -> Iterable[nn.Module]:
        """Blocks of the tower. The decoder's are left out: sharding does not know their entry points besides `forward`.

        Empty if tokens are cached: ranks find different tokens in the cache, so they would not gather a block
        equally often.
        """
        return [] if self.teller.kept else list(self.teller.visual.trunk.blocks)

    def groups(self) -> Mapping[str, ParamGroup]:
        """Rate factor and decay of each parameter: `image_lr` for the tower; vectors and positions do not decay."""
        return {
            name: ParamGroup(
                self.image_lr if name.startswith("visual.") else 1.0, p.ndim > 1 and not name.endswith("positions")
            )
            for name, p in self.teller.named_parameters()
            if p.requires_grad
        }

    def gradients(self, passes: Passes, batch: TextBatch, hyper: object) -> Learnt:
        """Compute the gradient of the whole batch, in one pass or in several."""
        return in_micro_batches(passes, (batch.pixels, batch.ids, batch.answers), self.micro_batch)

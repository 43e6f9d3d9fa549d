"""The decoder and the image tower as training sees them: from pixels and texts to a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from silc.heads.decoder.model import TextDecoder, answer_loss
from silc.heads.run import Learnt, in_micro_batches
from silc.heads.tuning import learnt, take_over
from silc.training.protocols import Learner, ParamGroup

if TYPE_CHECKING:
    from silc.checkpoint import Checkpoint
    from silc.heads.decoder.data import TextBatch
    from silc.heads.decoder.kept import KeptTokens
    from silc.models.image import ImageTower
    from silc.preprocess import Preprocess
    from silc.training.protocols import Passes


class Teller(nn.Module):
    """An image tower, frozen or not, and the decoder that looks at its tokens.

    Args:
        preprocess: of the image tower.
        kept: tokens on disk, of a tower that is frozen.
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
        """The same of pixels uint8 [B, 3, S, S], as they are kept where they are."""

        def look(some: Tensor) -> Tensor:
            return self.look(self.preprocess.normalize(some))

        return look(pixels) if self.kept is None else self.kept.of(pixels, look)

    def forward(self, pixels: Tensor, ids: Tensor, answers: Tensor, share: float) -> Learnt:
        """The loss, times a share, of a batch (`TextBatch`) or some rows of one."""
        logits = self.decoder(ids, self.see(pixels))
        loss = answer_loss(logits, ids, answers)
        with torch.no_grad():
            right = (logits[:, :-1].argmax(dim=-1) == ids[:, 1:]) & answers[:, 1:]
            accuracy = right.sum() / answers[:, 1:].sum()
        return Learnt(loss * share, {"loss/text": loss.detach(), "token_accuracy": accuracy})


@dataclass
class TextLearner(Learner):
    """The `Learner` of a decoder.

    Args:
        image_lr: share of the learning rate for the image tower, where it learns.
        micro_batch: images at a time; 0: all.
    """

    teller: Teller
    image_lr: float = 0.1
    micro_batch: int = 0

    @property
    def module(self) -> nn.Module:
        return self.teller

    def blocks(self) -> Iterable[nn.Module]:
        """Those of the tower; the decoder's have other ways in than `forward`, which sharding does not know.

        None where tokens are kept: ranks find different ones, and would not put a block together equally often.
        """
        return [] if self.teller.kept else list(self.teller.visual.trunk.blocks)

    def groups(self) -> Mapping[str, ParamGroup]:
        """The image tower at its share of the rate; vectors and positions do not decay."""
        return {
            name: ParamGroup(
                self.image_lr if name.startswith("visual.") else 1.0, p.ndim > 1 and not name.endswith("positions")
            )
            for name, p in self.teller.named_parameters()
            if p.requires_grad
        }

    def gradients(self, passes: Passes, batch: TextBatch, hyper: object) -> Learnt:
        """In one pass, or in several with the gradient of the whole batch."""
        return in_micro_batches(passes, (batch.pixels, batch.ids, batch.answers), self.micro_batch)

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """What training changes; a tower at rest is the model below, by its name."""
        return {"model": learnt(self.teller)}

    def load(self, saved: Checkpoint) -> None:
        """Raises BadInput when it is of another architecture."""
        take_over(self.teller, saved)

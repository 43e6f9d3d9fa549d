"""Base classes of evaluators: their fields and, for whole images, the preprocessing and its entries in a record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from silc.eval.embed import ALONE, OnBatch, image_features, silent
from silc.eval.protocols import WHOLE_IMAGE, WholeImageProtocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.encoder import DualEncoder
    from silc.eval.config import EvalConfig
    from silc.preprocess import Preprocess

D = TypeVar("D")


@dataclass
class OnSet(Generic[D]):
    """The fields of an `Evaluator`."""

    name: str
    data: D
    config: EvalConfig
    progress: OnBatch = silent
    world: World = ALONE

    @property
    def sets(self) -> list[D]:
        """The data sets that the evaluator reads."""
        return [self.data]


class OnWholeImages(OnSet[D]):
    """Base of an `Evaluator` of whole images; subclasses add the protocol and the scores."""

    entry: ClassVar[str] = "classify"
    """The purpose for which images are made square: a key of `WholeImageProtocol.resize`."""

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return 0, False

    @property
    def rules(self) -> WholeImageProtocol:
        """The protocol that `eval.classification` names."""
        return WHOLE_IMAGE[self.config.classification]

    def preprocess(self, model: DualEncoder) -> Preprocess:
        """The model's preprocessing, with the task's resize rule and the filter of the configuration."""
        interpolation = self.config.interpolation or model.preprocess.interpolation
        return replace(model.preprocess, resize=self.rules.resize[self.entry], interpolation=interpolation)

    def entering(self, model: DualEncoder) -> dict[str, Any]:
        """The record's entries about preprocessing."""
        preprocess = self.preprocess(model)
        return {
            "image_size": preprocess.size,
            "resize": f"{preprocess.resize}, {preprocess.interpolation}",
            "exif_orientation": self.config.exif_orientation,
        }

    def features(self, model: DualEncoder, images: Sequence[Image.Image], *, pooled: bool = False) -> Tensor:
        """`embed.image_features` with this preprocessing."""
        at = self.preprocess(model), self.config.batch_size, self.progress
        return image_features(model, images, *at, pooled=pooled, world=self.world)

"""Protocols of the two-tower model, its tokenizer, detectors, writers and dense predictors. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from PIL import Image
    from torch import Tensor

    from silc.preprocess import Preprocess


class Tokenizer(Protocol):
    """Text to ids. Same ids in every library that loads `tokenizer.json`."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def eos_id(self) -> int: ...

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Int64 ids [N, context_length], cut and padded; a cut text still ends with the end token."""
        ...


class PatchModel(Protocol):
    """A model that sees images in patches.

    Its images are outputs of `preprocess.normalize`: float [B, 3, H, W], H and W multiples of `patch_size`.
    """

    @property
    def name(self) -> str: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...


class DualEncoder(PatchModel, Protocol):
    """Any image-text two-tower model: a student, a teacher, an imported checkpoint. What evaluators take."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def readouts(self) -> tuple[str, ...]:
        """Names of the dense readouts this model has, the default first."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit-length float32 image features [B, D]."""
        ...

    def encode_pooled(self, images: Tensor) -> Tensor:
        """Float32 image features [B, W] before projection and normalisation: big_vision's `pre_logits`."""
        ...

    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        """Float32 text features [B, D] of int64 ids [B, T]; of unit length, or as the tower gives them."""
        ...

    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        """Text-aligned float32 patch features [B, h, w, D], not normalised."""
        ...


@runtime_checkable
class Detector(PatchModel, Protocol):
    """A model that finds boxes of what texts name. Matching and metrics of detection are the evaluator's."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Fields that describe it in the records of scores."""
        ...

    def entering(self, image: Image.Image) -> Tensor:
        """An RGB image as the model's input, uint8 [3, S, S]: the longer side is S, placed at the upper left."""
        ...

    def find(self, images: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [B, N, Q] and boxes [B, N, 4] of images, for text features [Q, D] (means of unit-length ones).

        Boxes are (centre x, centre y, width, height), as fractions of the square's side.
        """
        ...


@runtime_checkable
class Writer(PatchModel, Protocol):
    """A model that writes texts about images, given a task's prefix and a question; scored on captions and answers."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Fields that describe it in the records of scores."""
        ...

    @property
    def prefixes(self) -> Sequence[str]:
        """Prefixes of the tasks that it has learnt: `caption`, `vqa`."""
        ...

    def write(self, images: Sequence[Image.Image], prefix: str, questions: Sequence[str] = ()) -> list[str]:
        """The text for each RGB image; `questions` has one for each image if the task has questions."""
        ...


@runtime_checkable
class DensePredictor(PatchModel, Protocol):
    """Class names in, class maps out: a readout's cosines, a decoder, a trained head. Segmentation is scored with it.

    Windows, stitching, labels and metrics are the evaluator's. Two attributes are optional. `makes_masks`: if true,
    the maps are masks from 0 to 1 and the class features are unit-length text features, as TCL's mix needs them; if
    false, the maps have another scale, so a threshold of masks cannot be used. `most_windows`: the number of windows
    that a predictor with large maps takes at a time.
    """

    @property
    def record(self) -> Mapping[str, Any]:
        """Fields that describe it in records: `readout`; `decoder`, unless it is the cosine; `refined`, if its maps
        are; `tuned_on_labels`, if it uses numbers tuned on labels."""
        ...

    @property
    def rules(self) -> Mapping[str, Any]:
        """Fields of `SlidingWindowProtocol` that it fixes for itself; if there are any, `record` names a `protocol`."""
        ...

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Features [C, ...] of class names, made once; `embed` makes text features [C, D] as the evaluation does."""
        ...

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Class maps [B, C, h, w] of images, for the features of `classes`."""
        ...

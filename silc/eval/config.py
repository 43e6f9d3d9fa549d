"""Settings of an evaluation: its tasks and its protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeVar

from silc.eval.tasks import TASKS, section_of
from silc.settings import NATURAL, Range, Settings

T = TypeVar("T")
S = TypeVar("S", bound=Settings)


def with_sections(cls: type[T]) -> type[T]:
    """Add to a class, before it becomes a dataclass, a section for each task in `TASKS` with settings of its own."""
    for settings in filter(None, (kind.settings for kind in TASKS.values())):
        cls.__annotations__[section_of(settings)] = settings
        setattr(cls, section_of(settings), field(default_factory=settings))
    return cls


LOOK_TWICE, NEED_A_SECOND = ("proxyclip", "lposs"), ("proxyclip",)
"""Decoders that can read a second encoder, and those that need one."""


@dataclass(frozen=True)
@with_sections
class EvalConfig(Settings):
    """Tasks and protocol of an evaluation. Every setting that affects a score is written into its record.

    A task with settings of its own (`tasks.TASKS`) has them in a section here: eval.NAME.FIELD.
    """

    section: ClassVar[str] = "eval"
    root: str = ""
    """A folder with data sets in their official layouts, or in classification/, retrieval/, segmentation/ and
    detection/."""
    tasks: str = "all"
    """Comma-separated task names or globs: '<set>-zs', '-fewshot', '-retrieval', '-zs-seg'; 'all': all tasks found."""
    weights: Literal["student", "teacher", "both"] = "both"
    """Which weights are scored; a model without a teacher is scored once."""
    classification: Literal["big_vision", "clip"] = "big_vision"
    """Classification and retrieval: big_vision's (81 templates, squashed) or CLIP's (own templates, aspect kept)."""
    segmentation: str = "tcl"
    """Sliding windows (side / stride in px): tcl (448/224), sclip (224/112), radseg-mid, radseg-high (336/224), tips
    (448/336) or dinov3 (384/192), the last two with softmax. Several, joined by commas, are scored side by side."""
    templates: str = ""
    """Prompts for every task: clip80+1, clip80, clip7, cifar18, tcl9, maskclip85, catseg, photo or plain. Empty: the
    protocol's."""
    ensemble: Literal["", "normalize, mean, normalize", "mean, normalize"] = ""
    """How the prompts of a class become one feature. Empty: the protocol's."""
    interpolation: Literal["", "bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"] = ""
    """Filter that resizes images. Empty: the model's own, in segmentation the protocol's."""
    window: Annotated[int, Range(least=0, most=8192)] = 0
    """Side of segmentation's windows, in pixels. 0: the protocol's, or the training resolution if that is smaller."""
    names: str = ""
    """Words for segmentation's classes: `mmseg` (each set's published names), `maskclip`, `catseg`, `synonyms` (the
    best of a class's words counts), FILE.txt (one class per line, words separated by commas) or a folder of SET.txt.
    Several, joined by commas, are scored side by side. Empty: `mmseg`; in `-ov-seg` CAT-Seg's own names, if any."""
    background_names: bool = False
    """Name the background of VOC-21, PC-60 and COCO-Object by what is usually there, not by the word `background`."""
    readout: str = ""
    """Dense readout for segmentation; empty takes the default of the model's pooling."""
    decoder: str = "cosine"
    """Decoder of class maps: a name of docs/evaluation.md. Several, joined by commas, are scored side by side."""
    absent_classes: Literal["mmseg", "detectron2"] = "mmseg"
    """Classes predicted but absent from the truth: `mmseg` counts them as IoU 0, `detectron2` leaves them out."""
    second: str = ""
    """A second model, by name: decoders proxyclip (which needs it) and lposs take the similarity of patches from it."""
    neighbours: Annotated[int, Range(least=0, most=1_000_000)] = 0
    """Number of patches that decoder lposs joins to each patch. 0: 400, or all patches of an image that has fewer."""
    refine: str = ""
    """Refiner of class maps: a name of docs/evaluation.md. The score is then not raw: the record says `refined`."""
    pamr: bool = False
    """Refine the class maps along the image's edges as TCL does: `refine pamr`."""
    mix: str = ""
    """A second readout, mixed in as TCL mixes MaskCLIP (0.7 own + 0.3 other). The weights were tuned on labels."""
    background: Annotated[float, Range(least=0, below=1)] = 0.0
    """Score label 0 as background. It is predicted where no class score is above this threshold (TCL: 0.5; 0.4 with
    PAMR). The threshold is tuned on labels; 0: off."""
    confidence: Annotated[float, Range(least=0, below=1)] = 0.0
    """Score only pixels whose best word has at least this probability, softmax(100 cosines); `coverage` is their share.
    PACL's partial evaluation does this with its own probabilities. The paper's tables do not use it. 0: every pixel."""
    shots: Annotated[tuple[int, ...], Range(least=1, most=1_000_000)] = (1, 5, 10)
    """Images per class in few-shot classification."""
    max_captions: Annotated[int, NATURAL] = 0
    """Captions per image in retrieval, the first ones; 0 keeps all (CLIP cuts to 5)."""
    batch_size: Annotated[int, Range(least=1, most=1_000_000)] = 64
    """Images, windows or texts per forward pass."""
    exif_orientation: Literal["ignore", "apply"] = "ignore"
    """Whether photographs are rotated by their EXIF orientation (recipes and `silc eval`: apply). Label maps are never
    rotated: each was drawn either on the rotated or on the stored photograph."""
    photographs: bool = True
    """Show photographs in the report; off shows only label maps, for data sets that may not be passed on."""
    num_pictures: Annotated[int, Range(least=0, most=10_000)] = 6
    """Example pictures per task in the report."""

    def own(self, settings: type[S]) -> S:
        """The section with a task's own settings."""
        found: S = getattr(self, section_of(settings))
        return found

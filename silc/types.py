"""The nouns that cross borders between packages. Importing this module imports no torch.

Shape legend, used everywhere: B images of a batch (on one rank), G global views, L local views,
R global size and r local size in pixels, T text tokens, D joint embedding, K prototypes, h x w patches.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

    from silc.preprocess import Preprocess


class BadInput(Exception):
    """What a person gave cannot be used. One line: what came, what was needed, what to do.

    The command line prints the line alone and exits with `exit_code`.
    """

    exit_code = 2


class Preempted(Exception):
    """The process was asked to stop and has saved what it had.

    The command line exits with `exit_code`: 143 for SIGTERM and SIGUSR1, 130 for Ctrl-C.
    """

    def __init__(self, message: str = "", *, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LostRank(Exception):
    """Another process of the group died, hangs or was cut off. One line that names it.

    Nothing is wrong with what a person gave: the command line prints the line alone and exits with code 75
    (EX_TEMPFAIL of sysexits.h: try again), upon which `torchrun` starts the group anew.
    """


@dataclass(frozen=True)
class Views:
    """The views of a batch of images, 8-bit RGB, channels first; `None` where a recipe draws no such view."""

    original: Tensor | None  # uint8 [B, 3, R, R]: the whole image
    globals: Tensor | None  # uint8 [G, B, 3, R, R]
    locals: Tensor | None  # uint8 [L, B, 3, r, r]

    def map(self, function: Any) -> Views:
        """Apply `function` to each view tensor that exists."""

        def apply(views: Tensor | None) -> Any:
            return None if views is None else function(views)

        return Views(apply(self.original), apply(self.globals), apply(self.locals))


class Broken(NamedTuple):
    """A sample that cannot be used, or what is wrong with a shard; where to find it and why."""

    shard: str
    key: str  # empty where it is the shard itself
    cause: str  # a short stable word to count by
    detail: str  # the rest, for people


class AnyBatch(Protocol):
    """One rank's share of one global batch, whatever is learnt from it."""

    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def broken(self) -> Sequence[Broken]:
        """Samples met (and replaced) while this batch was made, in the batch's order."""
        ...

    @property
    def bad(self) -> Mapping[str, int]:
        """Their number by cause."""
        ...

    def to(self, device: torch.device | str) -> AnyBatch:
        """The batch on a device."""
        ...


@dataclass(frozen=True)
class Batch:
    """SILC's: views of images, and text."""

    views: Views
    text: Tensor  # int64 [B, T]
    keys: Sequence[str]  # B sample names, for reports
    broken: Sequence[Broken] = ()
    """Samples met (and replaced) while this batch was made, in the batch's order."""

    @property
    def bad(self) -> Mapping[str, int]:
        """Their number by cause."""
        return Counter(broken.cause for broken in self.broken)

    def part(self, rows: slice) -> Batch:
        """Some of its pairs."""
        v = self.views
        views = Views(
            None if v.original is None else v.original[rows],
            None if v.globals is None else v.globals[:, rows],
            None if v.locals is None else v.locals[:, rows],
        )
        return Batch(views, self.text[rows], self.keys[rows])

    def to(self, device: torch.device | str) -> Batch:
        """Copy views and text to a device."""
        move = lambda x: x.to(device, non_blocking=True)  # noqa: E731
        return Batch(self.views.map(move), move(self.text), self.keys, self.broken)

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from which a copy to a GPU is not waited for."""
        pin = lambda x: x.pin_memory()  # noqa: E731
        return replace(self, views=self.views.map(pin), text=pin(self.text))


class Projection(NamedTuple):
    """Logits on prototypes that were not multiplied out: the cosines of bottleneck and prototypes."""

    bottleneck: Tensor  # [..., C] unit length
    prototypes: Tensor  # [K, C] of any length, only their direction counts


class Targets(NamedTuple):
    """A teacher's targets q = softmax((y.w - c) / tau_t) that were not computed yet."""

    projection: Projection  # y and the teacher's prototypes w
    centre: Tensor  # c [K]
    temperature: float  # tau_t


class Distilled(NamedTuple):
    """A distillation loss, and what the teacher's targets look like; how a collapse is seen early."""

    loss: Tensor  # [] with gradient
    entropy: Tensor
    """[] Mean entropy of a target in nats, 0 to ln K. Near ln K: uniform collapse (or a very young teacher)."""
    targets: Tensor
    """[K] Mean target; the exponential of its entropy over the global batch is the batch-marginal perplexity."""
    logits: Tensor
    """[K] Mean of the teacher's logits, towards which its centre moves."""


class Pairs(NamedTuple):
    """All that the image-text loss reads: embeddings, not normalised, of the V views that enter it and of the text."""

    images: Tensor  # [V, B, D] student: original and/or global views
    text: Tensor  # [B, D]
    scale: Tensor  # [1]
    bias: Tensor  # [1]


@dataclass(frozen=True)
class Pass:
    """What goes through the towers between one forward pass and its backward pass; by default a whole step.

    With neither `pairs` nor `terms` the text is embedded, and no more.
    """

    pairs: bool = True
    """Whether the image-text loss is in it."""
    terms: bool = True
    """Whether the terms of self-supervision are in it."""
    view: int | None = None
    """Number of the one view, among those that enter the image-text loss, that enters here; None: all."""
    share: float = 1.0
    """Fraction of the batch, or of the views that enter the image-text loss, in this pass."""
    text: Tensor | None = None
    """The text's embedding [B, D], from a pass of its own."""
    pull: Pairs | None = None
    """d(loss of the whole batch) / d(this pass's embeddings), and this pass's fraction for scale and bias."""
    hidden: Tensor | None = None
    """Patches hidden from the student, int64 [G, B, M]; drawn for all passes at once."""

    @property
    def whole(self) -> bool:
        """Whether it is a step by itself."""
        return self.pairs and self.terms and self.view is None and self.pull is None and self.share == 1.0


@dataclass(frozen=True)
class StepOutput:
    """What the objective makes of a batch. Nothing has been changed yet when it is returned."""

    loss: Tensor  # [] with gradient
    metrics: Mapping[str, Tensor]  # detached scalars, means over this rank
    terms: Mapping[str, Distilled] = field(default_factory=dict)  # of self-supervision, by name; of this rank's views
    text: Tensor | None = None  # [B, D] with gradient, of a pass that only embeds it


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


class DualEncoder(Protocol):
    """Any image-text two-tower model: a student, a teacher, an imported checkpoint. What evaluators take.

    Images come in as `preprocess.normalize` leaves them: float [B, 3, H, W], H and W multiples of `patch_size`.
    """

    @property
    def name(self) -> str: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
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


@dataclass(frozen=True)
class Record:
    """One evaluated task, in the fields of CLIP_benchmark's result files plus what makes a number readable."""

    dataset: str
    task: str  # zeroshot_classification | fewshot_classification | zeroshot_retrieval | zeroshot_segmentation
    metrics: Mapping[str, float]
    chance: Mapping[str, float]
    """The expectation of the same metrics for random answers; `best_constant_*` where constant answers do better."""
    protocol: Mapping[str, Any]
    """Every choice that moves the number: templates, resize rule, window, stride, readout, ..."""
    model: str = ""
    weights: str = ""  # student | teacher | pretrained
    pretrained: str = ""
    language: str = "en"
    examples_seen: int | None = None
    train_flops: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """What explains the metrics, in JSON's types: scores per seed or class, the most confused classes."""
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The ends of the 95 % interval of each metric, by the bootstrap over images (silc/eval/bootstrap.py)."""


@dataclass(frozen=True)
class Evaluation:
    """A record and what goes with it into the report."""

    record: Record
    pictures: Sequence[Picture] = ()
    resampled: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Each metric's scores on the draws of the bootstrap, which are the same images for every model."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption. `group` names the section of the report it belongs to."""

    group: str
    caption: str
    image: Any  # PIL.Image.Image


class Evaluator(Protocol):
    """One task on one data set."""

    @property
    def name(self) -> str: ...
    @property
    def sets(self) -> Sequence[Any]:
        """The data sets it reads."""
        ...

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures it makes for the report, and whether they show photographs."""
        ...

    def protocol(self, model: DualEncoder) -> Mapping[str, Any]:
        """Every choice that moves the number, for this model."""
        ...

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model. Deterministic; leaves the model as it was."""
        ...


@dataclass(frozen=True)
class Hyper:
    """What the schedules say for one step."""

    lr: float
    momentum: float
    """lambda of the teacher's average."""
    temperature: float
    """tau_t of the teacher's targets."""

    def logged(self) -> Mapping[str, float]:
        """What stands in metrics.jsonl."""
        return {"lr": self.lr, "teacher/momentum": self.momentum}


class Ring(Protocol):
    """Ranks in a circle, each of which passes on to the next; passed in, so that losses look nothing up."""

    @property
    def size(self) -> int: ...

    def shift(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Hand tensors to the next rank and take the previous one's, of the same shapes; without gradient."""
        ...


class Collectives(Ring, Protocol):
    """What the objective asks of the other ranks."""

    @property
    def rank(self) -> int: ...

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the ranks, without gradient."""
        ...

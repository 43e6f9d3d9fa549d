"""Recipes: functions that return a Config, most of them a few changes to another one.

    silc_c          SILC with the softmax loss, ViT-B/16, as the paper pre-trains it (SILC-C*)
    silc_c-s16      the same with other towers: tiny ti16 s16 b16 b8 l16 so400m14
    silc_c-5b       a row of the paper's ablation: B/16 after 5 B examples (clip, clip_views, clip_views_ema, silc_c)
    silc_c-tiny     a model for generated scenes and two slow cores (5 minutes)

`silc show NAME` prints every field. `MODES` are the ways in which `silc finetune` continues an existing model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from silc.config import Config, PixelsConfig
from silc.data.config import CropConfig, DataConfig, ScenesConfig
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.kinds import heads
from silc.losses.config import ObjectiveConfig
from silc.models.config import HeadConfig, ModelConfig, TeacherConfig
from silc.models.variants import LOCAL_SIZE, variant
from silc.settings import nearest, one_of
from silc.training.config import OptimConfig, TrainConfig


def clip() -> Config:
    """CLIP: softmax contrast of the whole image with its caption. First row of the paper's ablation."""
    return Config(
        model=variant("b16"),
        objective=ObjectiveConfig(contrastive="softmax", contrastive_views="original", teacher=False, distill=False),
        train=TrainConfig(precision="auto", optim=OptimConfig(decay="kernels")),
        data=DataConfig(exif_orientation="apply"),
        eval=EvalConfig(exif_orientation="apply"),
    )


def siglip() -> Config:
    """SigLIP: CLIP with the sigmoid loss."""
    return sigmoid(clip())


def sigmoid(base: Config) -> Config:
    """`base` with SigLIP's loss; its scale is not clamped."""
    return replace(base, objective=replace(base.objective, contrastive="sigmoid", scale_max=None))


def clip_views() -> Config:
    """Ablation row 2: two global views in the contrastive loss."""
    base = clip()
    return replace(base, objective=replace(base.objective, contrastive_views="globals"))


def clip_views_ema() -> Config:
    """Ablation row 3: row 2 with an EMA teacher; the teacher is evaluated."""
    base = clip_views()
    return replace(base, objective=replace(base.objective, teacher=True))


def silc_c() -> Config:
    """Ablation row 4: row 3 with self-distillation from local crops. This is SILC-C*."""
    base = clip_views_ema()
    return replace(base, objective=replace(base.objective, distill=True))


def silc_s() -> Config:
    """SILC-S*: SILC-C* with SigLIP's loss."""
    return sigmoid(silc_c())


def finetune(base: Config) -> Config:
    """The paper's second stage on 100 M cleaner pairs (SILC-C, SILC-S): rsqrt, 1e-4, no warm-up, no weight decay.

    Its length is not stated; ten passes leave room for the stated cool-down of 50k steps. On generated scenes
    (`-tiny`) the cool-down is the same share of the run, four fifths.
    """
    optim = replace(base.train.optim, lr=1e-4, warmup="0 steps", weight_decay=0.0, schedule="rsqrt")
    return replace(base, train=replace(base.train, duration="1B examples", optim=optim))


def silc_c_finetune() -> Config:
    """Fine-tuning stage of SILC-C; give the pre-trained run with --init."""
    return finetune(silc_c())


def silc_s_finetune() -> Config:
    """Fine-tuning stage of SILC-S; give the pre-trained run with --init."""
    return finetune(silc_s())


def contrastive(base: Config) -> Config:
    """The image-text loss alone, on the whole image: continues the model's own training, CLIP's or SigLIP's."""
    return replace(
        base,
        init_weights="student",
        objective=replace(base.objective, contrastive_views="original", teacher=False, distill=False),
    )


def silc(base: Config) -> Config:
    """SILC from the first step on: 2 + 8 views, the paper's w = 1; keeps a head and a teacher that the model has."""
    return replace(
        base, objective=replace(base.objective, contrastive_views="globals", teacher=True, distill=True, weight=1.0)
    )


def late(base: Config) -> Config:
    """Late SILC, as in the last 20 % of SigLIP 2's training: teacher := student and a fresh head at the first step.

    1 global and 8 local views; the image-text loss on the original image alone; w = 0.25, its value at B. If
    objective.patches is on, its weight is 0.0625, from the same table.
    """
    return replace(
        base,
        init_weights="student",
        data=replace(base.data, crops=replace(base.data.crops, num_global=1, num_local=8)),
        objective=replace(
            base.objective, contrastive_views="original", teacher=True, distill=True, weight=0.25, patch_weight=0.0625
        ),
    )


MODES: dict[str, Callable[[Config], Config]] = {"late": late, "silc": silc, "contrastive": contrastive}


def mode_called(name: str) -> Callable[[Config], Config]:
    """The function by which a mode of `silc finetune` changes a configuration.

    Raises:
        BadInput: no such mode.
    """
    return one_of(MODES, name, "mode")


def continued(
    init: str, model: ModelConfig, pixels: PixelsConfig, loss: Literal["softmax", "sigmoid"], mode: str
) -> Config:
    """How `silc finetune` continues a model: with its own towers, pixels and loss, and rates that do not destroy it.

    Our choice, for some thousand pairs on a small GPU or a CPU: five passes in batches of 128, cosine to a peak of
    3e-5 after a tenth of the run, weight decay a tenth of pre-training's. (The paper's second stage, 1e-4 on 100 M
    pairs, is `silc_c_finetune`.)

    Raises:
        BadInput: no such mode.
    """
    goes_on = mode_called(mode)
    optim = OptimConfig(lr=3e-5, weight_decay=0.01, schedule="cosine", warmup="10%", cooldown="0 steps")
    train = TrainConfig(duration="5 epochs", batch_size=128, optim=optim, precision="auto", save_every="50%")
    base = Config(recipe=f"finetune-{mode}", init=init, pixels=pixels, model=model, train=train)
    crops = CropConfig(local_size=local_size(model.image.size, model.image.patch))
    base = replace(
        base, data=DataConfig(crops=crops, exif_orientation="apply"), eval=EvalConfig(exif_orientation="apply")
    )
    # A trained SigLIP's scale is above CLIP's limit of 100: the first step must not clamp it.
    return goes_on(sigmoid(base) if loss == "sigmoid" else base)


def fitted(base: Config, *, size: int, num_pairs: int, has_head: bool) -> Config:
    """Set the defaults of a continued run that depend on the user's image size and number of pairs.

    Prototypes depend on the number of pairs: at most 4,096 below 100,000 and 65,536 from a million on (others'
    experience with DINO-type heads); a trained head keeps its own. A tenth of the pairs, at most 500, are held out.
    """
    crops = replace(base.data.crops, local_size=local_size(size, base.model.image.patch))
    prototypes = next(k for limit, k in PROTOTYPES if num_pairs < limit)
    keeps_head = has_head and base.init_weights == "all"
    head = base.model.head if keeps_head else replace(base.model.head, prototypes=prototypes)
    return replace(
        base,
        data=replace(base.data, crops=crops),
        model=replace(base.model, head=head),
        train=replace(base.train, held_out=min(500, num_pairs // 10)),
    )


PROTOTYPES = ((10_000, 1024), (100_000, 4096), (1_000_000, 16_384), (float("inf"), 65_536))
"""(number of pairs, K): the number of prototypes K for fewer pairs than this."""


def local_size(size: int, patch: int) -> int:
    """Side of the local views for an image size: 96 for 256 as in the recipes, a multiple of the patch."""
    return max(1, round(size * 96 / 256 / patch)) * patch


def sized(base: Config, size: str) -> Config:
    """`base` with other towers."""
    crops = replace(base.data.crops, local_size=LOCAL_SIZE[size])
    model = replace(variant(size), head=base.model.head, teacher=base.model.teacher)
    resized = replace(base, model=model, data=replace(base.data, crops=crops))
    return on_scenes(resized) if size == "tiny" else resized


def on_scenes(base: Config) -> Config:
    """`base` on generated scenes, small enough for minutes on a CPU.

    At this size w = 1 was no gain and w = 0.1 was a gain within noise (docs/log.md), so this recipe alone uses 0.1.
    """
    crops, optim = replace(base.data.crops, num_local=4), base.train.optim
    if optim.warmup == OptimConfig().warmup:
        optim = replace(optim, schedule="cosine", warmup="10%", cooldown="0 steps")
    else:  # a second stage keeps its schedule
        optim = replace(optim, cooldown="80%")
    return replace(
        base,
        data=replace(base.data, source="scenes", scenes=ScenesConfig(num=20_000, size=64), crops=crops, vocab_size=512),
        model=replace(base.model, head=HeadConfig(256, 64, 512), teacher=TeacherConfig(half_life="3k examples")),
        objective=replace(base.objective, weight=0.1),
        train=TrainConfig(
            duration="25k examples",
            batch_size=128,
            optim=optim,
            precision="auto",
            device="cpu",
            log_every="5 steps",
            save_every="50%",
        ),
    )


BASES: dict[str, Callable[[], Config]] = {
    function.__name__: function
    for function in (clip, siglip, clip_views, clip_views_ema, silc_c, silc_s, silc_c_finetune, silc_s_finetune)
}


ABLATION = ("clip", "clip_views", "clip_views_ema", "silc_c")
"""The rows of the paper's ablation, each one change away from the one before."""
SECOND_STAGES = ("silc_c_finetune", "silc_s_finetune")
"""Recipes that start from a pretrained run."""
EARLIER = {
    f"{name}-tiny": {"train.optim.schedule": "cosine", "train.optim.cooldown": "0 steps"} for name in SECOND_STAGES
}
"""Earlier values of recipes, where they are no field's default, by recipe. A run that began with them keeps them."""


def goes_on(name: str) -> bool:
    """Whether the recipe is a second stage, which needs a run to start from."""
    return name.partition("-")[0] in SECOND_STAGES


def names() -> list[str]:
    """Every recipe name."""
    sized_ones = [name for base in BASES for name in (base, *(f"{base}-{size}" for size in LOCAL_SIZE))]
    return [*sized_ones, *(f"{row}-5b" for row in ABLATION)]


def get(name: str) -> Config:
    """The recipe called `name`.

    Raises:
        BadInput: there is none, or the name is a trained head's; names the nearest.
    """
    if name in heads():
        raise BadInput(f"{name} is a trained head and no recipe; `silc train {name} --init MODEL` trains it")
    if name not in names():
        raise BadInput(f"unknown recipe '{name}'{nearest(name, [*names(), *heads()])} (`silc recipes` lists them)")
    base, _, size = name.partition("-")
    if size == "5b":
        row = get(base)
        return replace(row, recipe=name, train=replace(row.train, duration="5B examples"))
    return replace(sized(BASES[base](), size or "b16"), recipe=name)

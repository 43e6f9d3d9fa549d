"""Named runs: functions that return a Config, each a few lines over another.

    silc_c          SILC with the softmax loss, ViT-B/16, as the paper pre-trains it (SILC-C*)
    silc_c-s16      the same with other towers: tiny ti16 s16 b16 b8 l16 so400m14
    silc_c-tiny     a model for generated scenes and two slow cores (5 minutes)

`silc show NAME` prints every field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from silc.config import Config, nearest
from silc.data.config import DataConfig, ScenesConfig
from silc.losses.config import ObjectiveConfig
from silc.models.config import HeadConfig, TeacherConfig
from silc.models.variants import LOCAL_SIZE, variant
from silc.train.config import OptimConfig, TrainConfig
from silc.types import BadInput


def clip() -> Config:
    """CLIP: softmax contrast of the whole image with its caption. First row of the paper's ablation."""
    return Config(
        model=variant("b16"),
        objective=ObjectiveConfig(contrastive="softmax", contrastive_views="original", teacher=False, distill=False),
    )


def siglip() -> Config:
    """SigLIP: the sigmoid loss instead."""
    base = clip()
    return replace(base, objective=replace(base.objective, contrastive="sigmoid"))


def clip_views() -> Config:
    """Ablation row 2: two global views in the contrastive loss."""
    base = clip()
    return replace(base, objective=replace(base.objective, contrastive_views="globals"))


def clip_views_ema() -> Config:
    """Ablation row 3: and an EMA teacher, which is what is evaluated."""
    base = clip_views()
    return replace(base, objective=replace(base.objective, teacher=True))


def silc_c() -> Config:
    """Ablation row 4: and self-distillation from local crops. This is SILC-C*."""
    base = clip_views_ema()
    return replace(base, objective=replace(base.objective, distill=True))


def silc_s() -> Config:
    """SILC-S*: the same with SigLIP's loss."""
    base = silc_c()
    return replace(base, objective=replace(base.objective, contrastive="sigmoid"))


def finetune(base: Config) -> Config:
    """The paper's second stage on 100 M cleaner pairs (SILC-C, SILC-S): rsqrt, 1e-4, no warm-up, no weight decay.

    Its length is not stated; ten passes leave room for the stated cool-down of 50k steps.
    """
    optim = replace(base.train.optim, lr=1e-4, warmup="0 steps", weight_decay=0.0, schedule="rsqrt")
    return replace(base, train=replace(base.train, duration="1B examples", optim=optim))


def silc_c_finetune() -> Config:
    """Fine-tuning stage of SILC-C; give the pre-trained run with --init."""
    return finetune(silc_c())


def silc_s_finetune() -> Config:
    """Fine-tuning stage of SILC-S; give the pre-trained run with --init."""
    return finetune(silc_s())


def sized(base: Config, size: str) -> Config:
    """The same run with other towers."""
    crops = replace(base.data.crops, local_size=LOCAL_SIZE[size])
    model = replace(variant(size), head=base.model.head, teacher=base.model.teacher)
    resized = replace(base, model=model, data=replace(base.data, crops=crops))
    return on_scenes(resized) if size == "tiny" else resized


def on_scenes(base: Config) -> Config:
    """Generated scenes on a CPU in minutes.

    At this size w = 1 was no gain and w = 0.1 within noise of one (docs/log.md), so this recipe alone uses 0.1.
    """
    crops, optim = replace(base.data.crops, num_local=4), base.train.optim
    warmup = "10%" if optim.warmup == OptimConfig().warmup else optim.warmup
    return replace(
        base,
        data=DataConfig(source="scenes", scenes=ScenesConfig(num=20_000, size=64), crops=crops, vocab_size=512),
        model=replace(base.model, head=HeadConfig(256, 64, 512), teacher=TeacherConfig(half_life="3k examples")),
        objective=replace(base.objective, weight=0.1),
        train=TrainConfig(
            duration="25k examples",
            batch_size=128,
            optim=replace(optim, schedule="cosine", cooldown="0 steps", warmup=warmup),
            device="cpu",
            log_every="5 steps",
            save_every="50%",
        ),
    )


BASES: dict[str, Callable[[], Config]] = {
    function.__name__: function
    for function in (clip, siglip, clip_views, clip_views_ema, silc_c, silc_s, silc_c_finetune, silc_s_finetune)
}


def names() -> list[str]:
    """Every recipe name."""
    return [name for base in BASES for name in (base, *(f"{base}-{size}" for size in LOCAL_SIZE))]


def get(name: str) -> Config:
    """The recipe called `name`.

    Raises:
        BadInput: there is none; names the nearest.
    """
    if name not in names():
        raise BadInput(f"unknown recipe '{name}'{nearest(name, names())} (`silc recipes` lists them)")
    base, _, size = name.partition("-")
    return replace(sized(BASES[base](), size or "b16"), recipe=name)

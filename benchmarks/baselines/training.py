"""Training steps as one would put them together from open_clip, timm and torch, every fast switch on.

CLIP is open_clip's model, loss and step (open_clip_train/train.py) around the same timm tower, with fused AdamW. The
naive SILC adds what is missing in the shortest way: the tower's copy as teacher, DINO's head and loss on all logits
(one log-softmax for each view), one forward for each size of crops, the text once for each pair, lerp for the average.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.baselines.dino import hoisted_loop
from silc.processor import choose_attention

if TYPE_CHECKING:
    from torch import Tensor

    from silc.config import Config

Autocast = Callable[[], AbstractContextManager[Any]]
CLIP_NORM, BETAS, DECAY, LR = 1.0, (0.9, 0.95), 0.1, 1e-3


def clip_model(config: Config, vocab_size: int, device: str) -> Any:
    """open_clip's CustomTextCLIP with towers of the sizes of `config`."""
    image, text = config.model.image, config.model.text
    model: Any = open_clip.CustomTextCLIP(
        embed_dim=config.model.embed_dim,
        vision_cfg=open_clip.CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=text.length,
            vocab_size=vocab_size,
            width=text.width,
            heads=text.heads,
            layers=text.depth,
            mlp_ratio=text.mlp / text.width,
            no_causal_mask=True,
            pool_type="last",
            proj_bias=True,
        ),
    )
    model.visual = VisionTransformer(
        img_size=image.size,
        patch_size=image.patch,
        embed_dim=image.width,
        depth=image.depth,
        num_heads=image.heads,
        mlp_ratio=image.mlp / image.width,
        class_token=False,
        global_pool="map",
        fc_norm=False,
        num_classes=0,
        dynamic_img_size=config.objective.distill,  # two sizes of crops
    )
    # What TIMM_FUSED_ATTN=0 does, where that is the faster code.
    choose_attention(model, torch.device(device), half=config.train.precision == "bf16")
    return model


class Step:
    """What every step ends with: clipping, fused AdamW, the clamp of the scale."""

    def __init__(self, modules: nn.Module, scale: nn.Parameter, autocast: Autocast) -> None:
        self.autocast, self.scale = autocast, scale
        trained = [p for p in modules.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": DECAY},
        ]
        self.trained, self.optimizer = trained, torch.optim.AdamW(groups, lr=LR, betas=BETAS, fused=True)

    def finish(self, loss: Tensor) -> float:
        """Backward and update."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.scale.clamp_(0, math.log(100))
        return loss.item()


def clip_step(config: Config, vocab_size: int, device: str, autocast: Autocast) -> Callable[[Tensor, Tensor], float]:
    """images [B, 3, R, R], normalised, and text [B, T] -> loss, after one update."""
    model = clip_model(config, vocab_size, device).to(device)
    step, loss_of = Step(model, model.logit_scale, autocast), open_clip.ClipLoss()

    def run(images: Tensor, text: Tensor) -> float:
        with autocast():
            loss = loss_of(*model(images, text))
        return step.finish(loss)

    return run


class Head(nn.Module):
    """DINO's: MLP, normalised bottleneck, weight-normed last layer."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        layers = [nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last = nn.Parameter(torch.randn(prototypes, bottleneck) * bottleneck**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(x), dim=-1), F.normalize(self.last, dim=-1))


def silc_step(
    config: Config, vocab_size: int, device: str, autocast: Autocast
) -> Callable[[Tensor, Tensor, Tensor], float]:
    """globals [G, B, 3, R, R] and locals [L, B, 3, r, r], normalised, and text [B, T] -> loss, after one update."""
    model, sizes = clip_model(config, vocab_size, device), config.model.head
    head = Head(config.model.embed_dim, sizes.hidden, sizes.bottleneck, sizes.prototypes)
    student = nn.ModuleDict({"model": model, "head": head}).to(device)
    teacher_visual, teacher_head = copy.deepcopy(model.visual), copy.deepcopy(head)
    teacher_visual.requires_grad_(False)
    teacher_head.requires_grad_(False)
    averaged: list[Tensor] = [*teacher_visual.parameters(), *teacher_head.parameters()]
    followed: list[Tensor] = [*model.visual.parameters(), *head.parameters()]
    centre = torch.zeros(sizes.prototypes, device=device)
    step, loss_of = Step(student, model.logit_scale, autocast), open_clip.ClipLoss()
    taus = (config.objective.student_temperature, config.model.teacher.temperature)

    def run(globals_: Tensor, locals_: Tensor, text: Tensor) -> float:
        num_global, num = globals_.shape[:2]
        with autocast():
            of_globals = model.visual(globals_.flatten(0, 1)).unflatten(0, (num_global, num))
            of_locals = model.visual(locals_.flatten(0, 1))
            of_text, scale = F.normalize(model.text(text), dim=-1), model.logit_scale.exp()
            views = [loss_of(F.normalize(view, dim=-1), of_text, scale) for view in of_globals]
            student_logits = head(of_locals).unflatten(0, locals_.shape[:2])
            with torch.no_grad():
                logits = teacher_head(teacher_visual(globals_.flatten(0, 1)))
            logits = logits.float().unflatten(0, (num_global, num))
            distill = hoisted_loop(student_logits.float(), logits, centre, *taus)
            loss = torch.stack(views).mean() + config.objective.weight * distill
        value = step.finish(loss)
        with torch.no_grad():
            torch._foreach_lerp_(averaged, followed, 0.01)
            centre.lerp_(logits.mean(dim=(0, 1)), 0.1)
        return value

    return run

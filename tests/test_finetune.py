"""Going on from a model: every mode trains and resumes, and starts where its source says it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from silc import checkpoint, recipes
from silc import config as configs
from silc.batch import Batch, Views
from silc.cli import main
from silc.config import Config
from silc.distributed import World
from silc.errors import BadInput
from silc.loading import load_run
from silc.losses.contrastive import sigmoid_loss, softmax_loss
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining import origin, run, start
from silc.pretraining.build import objective_of
from silc.step import FactoredLogits, Hyper
from silc.training.log import history
from tests import ranks

QUICK = {
    "data.source": "scenes",
    "data.scenes.num": 96,
    "data.scenes.size": 24,
    "data.workers": 0,
    "train.batch_size": 16,
    "train.duration": "5 steps",
    "train.log_every": "1 steps",
    "train.save_every": "1 steps",
    "train.precision": "float32",
    "train.device": "cpu",
    "train.keep": 9,
}
HYPER = Hyper(lr=1e-3, momentum=0.9, temperature=0.04)


def cosines(projection: FactoredLogits) -> Tensor:
    """The logits [..., K], multiplied out."""
    return F.linear(projection.bottleneck, F.normalize(projection.prototypes, dim=-1))


@pytest.fixture
def source(finished: Callable[..., Path]) -> Callable[[str], Path]:
    """A trained run of a recipe, at images of 32 px."""
    return partial(finished, size=32)


def configured(init: Path, mode: str = "late", **fields: Any) -> Config:
    given = QUICK | {name.replace("__", "."): value for name, value in fields.items()}
    return start.configured(str(init), mode, lambda base: configs.override(base, given))


def begun(config: Config) -> SilcObjective:
    """The objective of a continued run before its first step."""
    source = origin.find(config.init)
    torch.manual_seed(config.train.seed)
    objective = objective_of(config, source.tokenizer.vocab_size, source.tokenizer.eos_id, World())
    origin.initialize(objective, source, config.model.image.size, config.init_weights)
    return objective


def batch_of(config: Config, num: int = 4) -> Batch:
    size, crops = config.model.image.size, config.data.crops
    draw = lambda views, side: torch.randint(0, 256, (views, num, 3, side, side), dtype=torch.uint8)  # noqa: E731
    views = Views(draw(1, size)[0], draw(crops.num_global, size), draw(crops.num_local, crops.local_size))
    return Batch(views, torch.randint(2, 60, (num, config.model.text.length)), [str(i) for i in range(num)])


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {f"{part}/{name}": t for part, tensors in saved.state_dicts.items() for name, t in tensors.items()}


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive, image frozen": ("contrastive", {"train__optim__freeze": ["image"]}),
    "silc, head-only EMA, masked patches": (
        "silc",
        {"objective__head_only_ema": True, "objective__patches": "masked"},
    ),
    "late, LoRA": ("late", {"train__optim__lora": 2}),
    "late, larger": ("late", {"model__image__size": 48}),
}
ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "contrastive": ("contrastive", {}),
    "silc": ("silc", {}),
    "late": ("late", {}),
    "late, masked patches": ("late", {"objective__patches": "masked"}),
    "late, all patches": ("late", {"objective__patches": "all"}),
    "late, head-only EMA": ("late", {"objective__head_only_ema": True}),
    "late, text frozen": ("late", {"train__optim__freeze": ["text"]}),
    "late, layer decay": ("late", {"train__optim__layer_decay": 0.7}),
    "silc, LoRA, text frozen": ("silc", {"train__optim__lora": 2, "train__optim__freeze": ["text"]}),
}


@pytest.mark.parametrize("variant", [*VARIANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in ALIKE)])
def test_every_variant_trains_and_resumes_bit_for_bit(
    source: Callable[[str], Path], variant: str, tmp_path: Path
) -> None:
    mode, fields = (VARIANTS | ALIKE)[variant]
    config = replace(configured(source("clip"), mode, **fields), out=str(tmp_path / "run"))
    run.train(config)
    whole, records = weights(tmp_path / "run"), [dict(record) for record in history(tmp_path / "run")]
    steps = [record for record in records if "loss/total" in record]
    assert len(steps) == 5
    assert ("loss/distill" in steps[0]) == (mode != "contrastive")
    assert ("loss/patches" in steps[0]) == ("objective__patches" in fields)
    assert all(torch.isfinite(value).all() for value in whole.values())

    for path in checkpoint.find(tmp_path / "run" / "checkpoints"):
        if int(path.name.removeprefix("step-")) > 2:
            (path / checkpoint.MANIFEST).unlink()  # what has no manifest is not found
    torch.manual_seed(99)
    run.train(replace(config, resume="auto"))
    again = weights(tmp_path / "run")
    assert again.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
    resumed = [record["loss/total"] for record in history(tmp_path / "run") if "loss/total" in record]
    assert resumed == [record["loss/total"] for record in steps]


@pytest.mark.parametrize(
    ("recipe", "loss"), [("clip", softmax_loss), ("siglip", sigmoid_loss), ("silc_c", softmax_loss)]
)
def test_late_silc_before_its_first_step(source: Callable[[str], Path], recipe: str, loss: Any) -> None:
    """Teacher equals student bit for bit, the head is fresh, and the image-text loss is plain CLIP's or SigLIP's."""
    init = source(recipe)
    config = configured(init)
    objective, trained = begun(config), weights(init)
    for name, value in objective.student.state_dict().items():
        assert torch.equal(value, trained[f"model/{name}"]), name
    for name, value in objective.teacher.visual.state_dict().items():
        assert torch.equal(value, trained[f"model/visual.{name}"]), name
    assert not objective.teacher.centre.any()
    for name, value in objective.head.state_dict().items():
        assert torch.equal(value, objective.teacher.head.state_dict()[name])
        if recipe == "silc_c" and not name.endswith("bias") and value.shape == trained[f"head/{name}"].shape:
            assert not torch.equal(value, trained[f"head/{name}"]), f"{name} is not fresh"

    assert config.objective.contrastive == {"siglip": "sigmoid"}.get(recipe, "softmax")
    assert (config.data.crops.num_global, config.data.crops.num_local) == (1, 8)
    assert config.objective.weight == 0.25
    batch = batch_of(config)
    out = objective(batch, HYPER)
    student = objective.student
    image = F.normalize(student.visual(objective.preprocess.normalize(batch.views.original)), dim=-1)
    text = F.normalize(student.text(batch.text), dim=-1)
    bias = [student.logit_bias] if recipe == "siglip" else []
    expected = loss(image, text, student.logit_scale.exp(), *bias, World())
    torch.testing.assert_close(out.metrics["loss/contrastive"], expected.detach())
    plain = begun(configured(init, "contrastive"))(batch, HYPER)
    assert torch.equal(out.metrics["loss/contrastive"], plain.loss.detach())
    total = out.metrics["loss/contrastive"] + 0.25 * out.metrics["loss/distill"]
    torch.testing.assert_close(out.loss.detach(), total)


def test_full_silc_goes_on_with_head_teacher_and_centre(source: Callable[[str], Path]) -> None:
    init = source("silc_c")
    config = configured(init, "silc")
    assert config.model.head.prototypes == 24  # the trained head's, not those of so few pairs
    objective, trained = begun(config), weights(init)
    assert trained["teacher/centre"].any()
    for part in ("head", "teacher"):
        for name, value in getattr(objective, part).state_dict().items():
            assert torch.equal(value, trained[f"{part}/{name}"]), name


def test_from_the_teachers_tower(source: Callable[[str], Path]) -> None:
    init = source("silc_c")
    objective, trained = begun(configured(init, init_weights="teacher")), weights(init)
    for tower in (objective.student.visual, objective.teacher.visual):
        for name, value in tower.state_dict().items():
            assert torch.equal(value, trained[f"teacher/visual.{name}"]), name
    assert torch.equal(objective.student.text.ln_final.weight, trained["model/text.ln_final.weight"])


def test_scale_and_bias_are_kept_unless_the_loss_changes(source: Callable[[str], Path]) -> None:
    init = source("clip")
    trained = weights(init)
    kept, changed = begun(configured(init)), begun(configured(init, contrastive="sigmoid"))
    assert torch.equal(kept.student.logit_scale, trained["model/logit_scale"])
    assert not torch.equal(changed.student.logit_scale, trained["model/logit_scale"])
    assert changed.student.logit_scale.exp().item() == pytest.approx(10)
    assert changed.student.logit_bias.item() == -10


def test_pixels_stay_those_of_the_model(small: Callable[..., Config], tmp_path: Path) -> None:
    """CLIP's mean and std, its crop and filter go on through a continued run and into what reads it."""
    pixels = configs.PixelsConfig((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), "crop", "bilinear")
    run.train(replace(small("clip", duration="1 steps", out=tmp_path / "clip"), pixels=pixels))
    config = replace(configured(tmp_path / "clip"), out=str(tmp_path / "late"))
    run.train(config)
    expected = Preprocess(16, pixels.mean, pixels.std, "crop", "bilinear")
    assert load_run(tmp_path / "late").models["teacher"].preprocess == expected
    with pytest.raises(BadInput, match=r"expects pixels as Preprocess\(size=16, mean=\(0.48"):
        run.train(replace(config, pixels=configs.PixelsConfig(), out=str(tmp_path / "other")))


@pytest.mark.parametrize("pool", ["map", "cls"])
def test_at_another_size_it_computes_what_it_did_there(small: Callable[..., Config], pool: Any, tmp_path: Path) -> None:
    """The tower takes any size; with its position embedding resampled it gives the same, and is trained there."""
    config = small("clip", duration="2 steps", out=tmp_path / "clip")
    model = replace(config.model, image=replace(config.model.image, size=32, pool=pool))
    run.train(replace(config, model=model))
    before = load_run(tmp_path / "clip").models["student"]
    config = configured(tmp_path / "clip", model__image__size=48)
    assert config.data.crops.local_size == 16
    objective = begun(config)
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(objective.student.visual(images), before.visual(images))
    assert objective.student.visual.trunk.pos_embed.shape[1] == 36 + (pool == "cls")
    said = origin.initialize(objective, origin.find(str(tmp_path / "clip")), 48, "student")
    assert "position embedding resampled from 32 to 48 px" in said


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_frozen_tower_stays_bit_for_bit(source: Callable[[str], Path], tower: str, tmp_path: Path) -> None:
    init, mode = source("siglip"), {"image": "contrastive", "text": "late"}[tower]
    config = configured(init, mode, train__optim__freeze=[tower], out=str(tmp_path / "run"), lr=1e-2)
    run.train(config)
    before, after = weights(init), weights(tmp_path / "run")
    prefix = {"image": "visual.", "text": "text."}[tower]
    frozen = [name for name in after if name.startswith(f"model/{prefix}")]
    assert len(frozen) > 10
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    others = [name for name in after if name.startswith("model/") and name not in frozen and name in before]
    assert sum(not torch.equal(after[name], before[name]) for name in others) > 10
    assert not [name for name in after if name.startswith(f"optimizer/student.{prefix}")]


def test_lora_moves_the_blocks_matrices_by_a_low_rank_and_nothing_else(
    source: Callable[[str], Path], tmp_path: Path
) -> None:
    """And leaves a model with the towers' plain names, which every reader of models opens."""
    init = source("siglip")
    run.train(configured(init, train__optim__lora=2, out=str(tmp_path / "run"), lr=1e-2, train__save_every="never"))
    before, after = weights(init), weights(tmp_path / "run")
    towers = [name for name in before if name.startswith(("model/visual.", "model/text."))]
    assert {name for name in after if name.startswith(("model/visual.", "model/text."))} == set(towers)
    moved = [name for name in towers if not torch.equal(after[name], before[name])]
    assert sorted(moved) == sorted(name for name in towers if "blocks." in name and before[name].ndim == 2)
    assert len(moved) >= 8
    for name in moved:
        change = (after[name] - before[name]).double()
        sizes = torch.linalg.svdvals(change)
        assert sizes[1] > 1e-4, name
        assert sizes[2] < 1e-5 * sizes[0] + 1e-6, name
    # The average of the sums, not of the thin matrices.
    teacher = [name for name in after if name.startswith("teacher/visual.")]
    assert all("parametrizations" not in name for name in teacher)
    changed = [name for name in teacher if not torch.equal(after[name], before[name.replace("teacher", "model")])]
    assert len(changed) >= 4
    loaded = load_run(tmp_path / "run").models["student"]
    assert torch.equal(
        loaded.visual.trunk.blocks[0].attn.qkv.weight, after["model/visual.trunk.blocks.0.attn.qkv.weight"]
    )


def test_a_teacher_of_the_heads_alone_equals_one_that_forgets_at_once(source: Callable[[str], Path]) -> None:
    """At momentum 0 the averaged tower is the student's: same loss, gradient and next state as with none of its own."""
    init = source("clip")
    full = begun(configured(init, objective__patches="masked"))
    alone = begun(configured(init, objective__patches="masked", objective__head_only_ema=True))
    assert alone.teacher.visual is None
    config = configured(init)
    for step in range(2):
        batch, results = batch_of(config), []
        for objective in (full, alone):
            torch.manual_seed(step)  # the same patches masked
            objective.zero_grad()
            out = objective(batch, replace(HYPER, momentum=0.0))
            out.loss.backward()
            with torch.no_grad():
                for p in objective.parameters():
                    if p.grad is not None:
                        p.add_(p.grad, alpha=-0.1)
            objective.after_step(out, replace(HYPER, momentum=0.0))
            results.append((out.loss.detach(), objective.state_dict()))
        (one, theirs), (other, ours) = results
        assert torch.equal(one, other)
        assert theirs.keys() - ours.keys() == {name for name in theirs if name.startswith("teacher.visual.")}
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def test_head_only_ema_loses_no_gradient_under_autocast(source: Callable[[str], Path]) -> None:
    """Weights cast for the teacher without gradient must not be handed to the student's passes."""
    config = configured(source("clip"), objective__head_only_ema=True, objective__patches="masked")
    objective, batch = begun(config), batch_of(config)
    with torch.autocast("cpu", torch.bfloat16):
        objective(batch, HYPER).loss.backward()
    without = {name for name, p in objective.named_parameters() if p.requires_grad and not p.grad.any()}
    assert without <= {"student.visual.trunk.attn_pool.kv.bias"}
    exact = begun(config)
    torch.manual_seed(0)
    exact(batch, HYPER).loss.backward()
    a, b = (one.student.visual.trunk.patch_embed.proj.weight.grad.flatten() for one in (objective, exact))
    assert F.cosine_similarity(a, b, dim=0) > 0.9


@pytest.mark.parametrize("patches", ["masked", "all"])
def test_patches_are_predicted_where_they_should_be(source: Callable[[str], Path], patches: str) -> None:
    """The term equals the loss put together by hand from masked student, whole teacher, own heads and centre."""
    config = configured(source("clip"), objective__patches=patches)
    objective, batch = begun(config), batch_of(config)
    objective.patch_teacher.centre.normal_(std=0.1)
    with torch.no_grad():
        for p in objective.patch_teacher.head.parameters():
            p.add_(0.01)
    torch.manual_seed(3)
    out = objective(batch, HYPER)
    torch.manual_seed(3)
    view = objective.preprocess.normalize(batch.views.globals)[0]
    masked = torch.rand(1, 4, 16).argsort(dim=-1)[0, :, :8]
    student = objective.patch_head.masked_tokens(objective.student.visual, view, masked)
    teacher = objective.teacher.visual.trunk.tokens(view).final
    total, count = torch.zeros(()), 0
    for image in range(4):
        for place in masked[image] if patches == "masked" else range(16):
            q = (
                cosines(objective.patch_teacher.head(teacher[image, place][None])) - objective.patch_teacher.centre
            ) / 0.04
            s = cosines(objective.patch_head.head(student[image, place][None])) / 0.1
            total, count = total - (q.softmax(-1) * s.log_softmax(-1)).sum(), count + 1
    torch.testing.assert_close(out.metrics["loss/patches"], (total / count).detach(), rtol=1e-4, atol=1e-5)
    assert out.terms["patches"].logits.shape == objective.patch_teacher.centre.shape
    before = objective.patch_teacher.centre.clone()
    objective.after_step(out, HYPER)
    torch.testing.assert_close(objective.patch_teacher.centre, 0.9 * before + 0.1 * out.terms["patches"].logits)


def test_ranks_hide_what_one_process_would(source: Callable[[str], Path]) -> None:
    config = configured(source("clip"), objective__patches="masked")
    objective, views = begun(config), torch.zeros(2, 4, 3, 32, 32)
    torch.manual_seed(5)
    whole = objective.draw_masks(views)
    shares = []
    for rank in range(2):
        objective.world = World(rank, 2)
        torch.manual_seed(5)
        shares.append(objective.draw_masks(views[:, :2]))
    assert torch.equal(torch.cat(shares, dim=1), whole)


def test_original_tokenizer_held_out_pairs_and_verdict(
    source: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = source("clip")
    config = replace(configured(init), out=str(tmp_path / "run"))
    assert config.train.held_out == 9
    run.train(config)
    said = capsys.readouterr().out
    tokenizer = Path("tokenizer/tokenizer.json")
    assert (init / tokenizer).read_bytes() == (tmp_path / "run" / tokenizer).read_bytes()
    assert "student; teacher := student" in said
    assert "retrieval among 9 pairs held out of this run" in said
    assert "R@1 " in said
    assert said.count("more than the error") + said.count("beyond the error") + said.count("WORSE") == 1
    keys = "eval/student/held_out-retrieval/image_retrieval_recall@1"
    measured = [record["step"] for record in history(tmp_path / "run") if keys in record]
    assert measured == [0, 5]
    (state,) = [checkpoint.read(path).state for path in checkpoint.find(tmp_path / "run" / "checkpoints")[:1]]
    assert re.fullmatch(
        r"[0-9a-f]{64}-[0-9a-f]{32}", state["loader"]["fingerprint"]
    )  # the source, and which are left out
    # 96 - 9 pairs are 5 steps of 16.
    assert state["loader"]["epoch"] == 1


def test_a_siglip_above_clips_limit_is_not_pulled_down(source: Callable[[str], Path]) -> None:
    config = configured(source("siglip"))
    objective = begun(config)
    with torch.no_grad():
        objective.student.logit_scale.fill_(4.77)  # 118
    objective.after_step(objective(batch_of(config), HYPER), HYPER)
    assert objective.student.logit_scale.item() == pytest.approx(4.77)


@pytest.mark.parametrize("learns", [pytest.param(("freeze", "text"), marks=pytest.mark.slow), ("lora", "2")])
def test_two_processes_equal_one(learns: tuple[str, str], source: Callable[[str], Path], tmp_path: Path) -> None:
    """Late SILC with masked patches and towers that stand still, in part, on two ranks: the losses and the held-out
    scores of one."""
    init = source("clip")
    flags = [f"--{name}={value}" for name, value in (QUICK | {"objective.patches": "masked"}).items()]
    given = ["finetune", "--init", str(init), *flags, f"--train.optim.{learns[0]}", learns[1]]
    assert main([*given, "--out", str(tmp_path / "one")]) == 0
    assert ranks.silc(*given, "--out", str(tmp_path / "two")).count("held out of this run") == 1
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    assert len(one) == len(two) == 7
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"samples_per_s", "data_wait"}:
            assert b[key] == pytest.approx(a[key], rel=5e-4, abs=1e-5), (a["step"], key)


def test_head_only_runs_are_read_back_without_a_teacher(source: Callable[[str], Path], tmp_path: Path) -> None:
    config = replace(configured(source("clip"), objective__head_only_ema=True), out=str(tmp_path / "run"))
    run.train(config)
    assert load_run(tmp_path / "run").models.keys() == {"student"}
    with pytest.raises(BadInput, match="has no teacher; use --weights student"):
        load_run(tmp_path / "run", weights="teacher")
    # And such a run can be gone on from with a tower of the teacher's own.
    again = begun(configured(tmp_path / "run", "silc"))
    for name, value in again.teacher.visual.state_dict().items():
        assert torch.equal(value, again.student.visual.state_dict()[name])


@pytest.mark.parametrize(
    ("pairs", "prototypes", "held_out"),
    [(96, 1024, 9), (5_000, 1024, 500), (50_000, 4096, 500), (500_000, 16_384, 500), (2_000_000, 65_536, 500)],
)
def test_defaults_follow_the_data(pairs: int, prototypes: int, held_out: int) -> None:
    base = recipes.continued("x", recipes.get("clip").model, configs.PixelsConfig(), "softmax", "late")
    fitted = recipes.fitted(base, size=384, num_pairs=pairs, has_head=False)
    assert fitted.model.head.prototypes == prototypes
    assert fitted.train.held_out == held_out
    assert fitted.data.crops.local_size == 144
    assert fitted.train.optim.lr == 3e-5


def test_local_views_fit_every_patch() -> None:
    assert [recipes.local_size(size, patch) for size, patch in ((256, 16), (64, 8), (224, 14), (16, 16))] == [
        96,
        24,
        84,
        16,
    ]


def test_python_call(source: Callable[[str], Path], tmp_path: Path) -> None:
    import silc

    out = silc.finetune(init=source("clip"), data="", out=tmp_path / "run", mode="contrastive", lr=1e-4, **QUICK)
    config = configs.load(out / "config.yaml")
    assert (config.train.optim.lr, config.recipe) == (1e-4, "finetune-contrastive")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lrr": 1}, "unknown field 'lrr'; did you mean 'lr'"),
        ({"size": 64}, "'size' could be .* or model.image.size; write one of these"),
        ({"train.duration": 5}, "field 'train.duration'"),
        ({"train.optim.freeze": ["image"]}, "freeze names the image tower"),
        ({"train.held_out": 96}, "held_out is 96 of 96 pairs"),
        ({"train.optim.lora": -1}, "lora is -1; needed a whole number at least 0"),
        ({"objective.teacher": False}, "distill needs objective.teacher"),
        ({"model.image.width": 64}, "map pooling gives"),
    ],
)
def test_what_is_refused(source: Callable[[str], Path], fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    import silc

    with pytest.raises(BadInput, match=message):
        silc.finetune(source("clip"), "", tmp_path / "run", **(QUICK | fields))


def test_batch_size_means_trainings(small: Callable[..., Config]) -> None:
    assert configs.override(small("clip"), {"batch_size": 8}).train.batch_size == 8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["finetune"], "silc finetune needs a model to go on from: --init MODEL"),
        (["finetune", "--init", "nowhere"], "nowhere is no model: neither a run of"),
        (["finetune", "--init={source}", "--mode", "lat"], "unknown mode 'lat'; did you mean 'late'?"),
        (["finetune", "--init", "{source}", "--data.trian", "x"], "unknown field 'data.trian'; did you mean"),
        (["finetune", "--init", "{source}", "--out", "x"], "data.train is empty; name tar shards"),
    ],
)
def test_one_line_and_two(
    source: Callable[[str], Path], args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(source("clip")) if "{source}" in " ".join(args) else ""
    capsys.readouterr()
    assert main([arg.replace("{source}", where) for arg in args]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_command_line(source: Callable[[str], Path], tmp_path: Path) -> None:
    flags = [f"--{name}={value}" for name, value in QUICK.items()]
    given = ["--init", str(source("siglip")), "--out", str(tmp_path / "run"), *flags, "--model.head.prototypes", "48"]
    assert main(["finetune", *given]) == 0
    config = configs.load(tmp_path / "run" / "config.yaml")
    assert (config.recipe, config.objective.contrastive, config.model.head.prototypes) == (
        "finetune-late",
        "sigmoid",
        48,
    )


def test_help_needs_no_place_to_write_and_shows_this_models_defaults(
    source: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    init = source("siglip")
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "--init", str(init), "--help"])
    assert not stop.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert f"(default: {configs.load(init / 'config.yaml').model.image.width})" in said
    assert "(default: finetune-late)" in said
    assert "(default: sigmoid)" in said

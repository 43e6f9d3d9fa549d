"""Export a model as one directory with several formats, each verified before the directory appears.

    silc.json, silc.safetensors, tokenizer/     silc.load
    open_clip_config.json, open_clip_model.safetensors
    config.json, preprocessor_config.json, model.safetensors
    tokenizer.json, tokenizer_config.json       for both
    onnx/ torch_export/ int8/                   image and text
    web/                                        a page that needs no server of ours
    continue/                                   of a run: student, head, teacher, teacher's head and centre
    README.md                                   model card

`continue/` is a run without an optimizer: `silc.load` opens it, and `--init` starts from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from silc import checkpoint
from silc import config as configs
from silc.data.tokenizer import BPETokenizer
from silc.durable import whole, write_whole
from silc.errors import BadInput
from silc.exports import formats as offered
from silc.exports import graphs, open_clip, transformers, web
from silc.exports.card import Facts, card, scores_of
from silc.exports.verify import Check, Probe, compare
from silc.interop import pretrained, sources
from silc.interop.pretrained import Pretrained
from silc.kinds import KINDS
from silc.loading import load_run
from silc.rundir import CONTINUE, TOKENIZER, newest_checkpoint
from silc.training.directory import CHECKPOINTS, CONFIG, is_run

FORMATS: dict[str, Any] = {one.NAME: one for one in (open_clip, transformers, *graphs.KINDS, web.FORMAT)}
"""Formats by name, each with `write`, `verify` and `notes`."""


def export(
    source: str | Path,
    out: str | Path,
    formats: Sequence[str] | None = None,
    *,
    weights: Literal["auto", "student", "teacher"] = "auto",
    tokenizer: str | Path | None = None,
    license: str = "unknown",
    datasets: Sequence[str] = (),
    decoder: str = "",
) -> list[Check]:
    """Write a model for other libraries, all formats or none.

    Args:
        source: whatever `silc.load` takes.
        out: a new or empty directory.
        formats: some of open_clip, transformers, onnx, torch_export, int8, web; silc's own is always written. None: the
            first two, or onnx for a trained head.
        weights: which weights of a run; `auto` is the teacher if there is one.
        tokenizer: as for `silc.load`.
        license, datasets: for the model card, in the hub's words (`apache-2.0`; `ORG/NAME`).
        decoder: a name of docs/evaluation.md: adds a third graph to onnx and torch_export, in which this decoder makes
            class maps of images and texts; empty: no such graph.

    Returns:
        How far each format, read back, is from the model.

    Raises:
        BadInput: no such model or format, a format that cannot hold these towers, a library that is not installed, or a
            format whose numbers, read back, are not the model's. Nothing is left behind.
    """
    formats = offered.asked_of(source, formats)
    if kind := offered.head_of(source):
        if weights != "auto" or tokenizer is not None or decoder:
            raise BadInput(f"{source} is a head, exported as it was trained; leave out weights, tokenizer and decoder")
        of_head: list[Check] = KINDS[kind].find("export")(source, out, formats, license=license, datasets=datasets)
        return of_head
    out = offered.check(source, out, formats, decoder)
    model, facts = model_and_facts(source, weights, tokenizer, license, datasets)
    probe = Probe(model, decoder)
    chosen = {name: FORMATS[name] for name in FORMATS if name in formats}
    with whole(out) as partial:
        pretrained.save(model, partial)
        model.tokenizer.save(partial)
        notes, checks = {}, _verify_ours(partial, probe)
        for name, one in chosen.items():
            one.write(partial, probe)
            checks += one.verify(partial, probe)
            notes[name] = one.notes(model)
            if decoder and name in offered.MAPPED:
                notes[name].append(f"segment makes class_maps from pixel_values and text_embeds, by decoder {decoder}")
        if is_run(source):
            _keep_going(Path(source), partial / CONTINUE)
        write_whole(partial / "README.md", card(model, facts, notes, checks))
    return checks


def model_and_facts(
    source: str | Path,
    weights: Literal["auto", "student", "teacher"],
    tokenizer: str | Path | None,
    license: str,
    datasets: Sequence[str],
) -> tuple[Pretrained, Facts]:
    """The model with its weights, and what else is known of it."""
    name = Path(source).name if Path(source).exists() else str(source)
    if not is_run(source):
        if weights != "auto":
            sources.kind_of(source)  # raises if the source is no model at all
            raise BadInput(f"{source} is no run with a student and a teacher; leave weights {weights!r} out")
        model = replace(sources.read(source, tokenizer=Path(tokenizer) if tokenizer else None), source=name)
        scores = scores_of(Path(source), "pretrained")
        return model, Facts(name, license, datasets, "pretrained", None, None, scores)
    if tokenizer:
        raise BadInput(f"{source} is a run, whose tokenizer is the one it was trained with; leave it out")
    run = Path(source)
    loaded = load_run(run, weights="both" if weights == "auto" else weights)
    encoder, config = loaded.best(), configs.load(run / CONFIG)
    words = encoder.tokenizer
    assert isinstance(words, BPETokenizer)
    rows = encoder.model.text.token_embedding.num_embeddings
    tensors = encoder.model.state_dict()
    tensors |= {f"visual.{key}": value for key, value in encoder.visual.state_dict().items()}
    if loaded.contrastive == "softmax":
        # The softmax loss ignores the bias, so the run still has its initial value; CLIPModel has no place for it.
        tensors["logit_bias"] = torch.zeros(1)
    model = Pretrained(
        model=replace(config.model, text=replace(config.model.text, vocab_size=rows)),
        weights=tensors,
        tokenizer=words,
        preprocess=encoder.preprocess,
        contrastive=loaded.contrastive,
        source=name,
    )
    scores = scores_of(run, encoder.weights)
    return model, Facts(name, license, datasets, encoder.weights, config, loaded.examples_seen, scores)


def _verify_ours(directory: Path, probe: Probe) -> list[Check]:
    """Read silc's own files back and compare them."""
    again = Probe(pretrained.read(directory))
    compared = {"token ids": "ids", "image features": "image", "text features": "text"}
    return [compare("silc", what, getattr(again, name), getattr(probe, name), 0.0) for what, name in compared.items()]


def _keep_going(run: Path, out: Path) -> None:
    """Write the run again, without its optimizer and without the paths of the machine it was made on."""
    config = configs.load(run / CONFIG)
    saved = checkpoint.read(newest_checkpoint(run), only=checkpoint.WEIGHTS)
    out.mkdir()
    (out / TOKENIZER).mkdir()
    for file in (run / TOKENIZER).iterdir():
        shutil.copyfile(file, out / TOKENIZER / file.name)  # only the bytes: not every file system has modes
    step = int(saved.path.name.partition("-")[2])
    state = {"cost": saved.state["cost"]}
    checkpoint.write(out / CHECKPOINTS, step, saved.state_dicts, state, keep=1)
    placeless = replace(
        config,
        out="",
        init="",
        data=replace(config.data, train="", image_root="", tokenizer="", index_cache=""),
        eval=replace(config.eval, root=""),
    )
    configs.save(placeless, out / CONFIG)

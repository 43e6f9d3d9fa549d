"""`silc predict`: a model on images and folders of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from silc.checks import second_encoder
from silc.commands import flags, predictions
from silc.commands.flags import WEIGHTS_OF_RUNS, DeviceName, ModelName, TokenizerPath, WeightsName
from silc.errors import BadInput
from silc.eval.config import LOOK_TWICE, EvalConfig
from silc.eval.prompts import templates
from silc.eval.protocols import SLIDING_WINDOW
from silc.given import Idle
from silc.rundir import check_model
from silc.settings import SEED, Range, Settings, one_of
from silc.terminal import announce, complain, say

UNNAMED = ("embed", "caption", "answer")
"""Tasks that take no names of classes."""


@dataclass(frozen=True)
class PredictCommand(Settings):
    """Use a model on images: a run, an import, or whatever `silc import` takes."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle("names", lambda c: c.task in UNNAMED, "names are for classify, segment and detect"),
        Idle("question prefix", lambda c: c.task != "answer", "a question is for answer"),
        Idle(
            "beams temperature top_p seed",
            lambda c: c.task not in ("caption", "answer"),
            "only caption and answer read it",
        ),
        Idle("top_p seed", lambda c: not c.temperature, "words are drawn only with a --temperature"),
        Idle(
            "templates",
            lambda c: c.task not in ("classify", "detect"),
            "prompts are for classify and detect; segment has its protocol's",
        ),
        Idle("score most", lambda c: c.task != "detect", "boxes are for detect"),
        Idle("segmentation", lambda c: c.task != "segment", "windows are for segment"),
        Idle("decoder second", lambda c: c.task != "segment", "class maps are for segment"),
        Idle("second", lambda c: c.decoder not in LOOK_TWICE, "only --decoder proxyclip and lposs read it"),
        Idle("alpha legend edges", lambda c: c.task != "segment", "overlays are for segment"),
        WEIGHTS_OF_RUNS,
    )
    task: tyro.conf.Positional[Literal["classify", "embed", "segment", "detect", "caption", "answer"]]
    """classify, caption and answer print their results and, with --out, write JSON; embed writes .npy, segment writes a
    folder of overlays and label maps, detect writes a folder of COCO JSON and pictures of the boxes."""
    model: ModelName
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, or folders of them."""
    out: str = ""
    """Where the results go: FILE.json to classify, caption or answer (optional: they are printed too), FILE.npy to
    embed, a new or empty folder to segment or to detect."""
    names: str = ""
    """Classes to tell apart, separated by commas, or a .txt file with one per line."""
    templates: str = "clip7"
    """Prompt set for the names when classifying or detecting: clip80+1, clip80, clip7, cifar18, tcl9, maskclip85 or
    plain."""
    weights: WeightsName = "auto"
    tokenizer: TokenizerPath = ""
    segmentation: str = "tcl"
    """Sliding windows when segmenting, as for `silc eval`: tcl, sclip, radseg-mid, radseg-high, tips or dinov3."""
    decoder: str = "cosine"
    """The decoder that makes class maps when segmenting, by a name of docs/evaluation.md, as for `silc eval`."""
    second: str = ""
    """Another model, by name: decoders proxyclip (required) and lposs compare its patches."""
    alpha: Annotated[float, Range(least=0, most=1)] = 0.7
    """Share of the classes' colours in overlays."""
    legend: bool = False
    """Name the classes below overlays."""
    edges: bool = False
    """Draw white lines between classes in overlays."""
    score: Annotated[float, Range(least=0, most=1)] = 0.1
    """Lowest score of a box when detecting; boxes below it are left out."""
    most: Annotated[int, Range(least=1, most=100_000)] = 100
    """Maximum number of boxes per image, when detecting."""
    question: str = ""
    """The question about each image, for answer."""
    prefix: str = ""
    """The task of the question, if a decoder has learnt several; by default the first one that has questions."""
    beams: Annotated[int, Range(least=1, most=1000)] = 1
    """Number of beams (beam search) when captioning or answering; 1 takes the likeliest word each time."""
    temperature: Annotated[float, Range(least=0, most=100)] = 0.0
    """Above 0, words are sampled when captioning or answering."""
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    """With a temperature: words are sampled from the likeliest ones that together have this probability."""
    seed: Annotated[int, SEED] = 0
    """With a temperature: the seed of the sampling."""
    batch_size: Annotated[int, Range(least=1, most=1_000_000)] = 32
    """Images (windows, texts) per forward pass."""
    device: DeviceName = "auto"


def main(args: list[str]) -> int:
    """Classify, embed, segment, detect or write; files that are no images are reported at the end."""
    command = flags.read(PredictCommand, args, "silc predict")
    out = predictions.place_of(command.task, command.out)
    for name in filter(None, (command.model, command.second)):
        check_model(name)
    one_of(SLIDING_WINDOW, command.segmentation, "protocol")
    templates(command.templates)
    names = predictions.names_of(command.names) if command.task not in UNNAMED else []
    if command.task == "answer" and not command.question.strip():
        raise BadInput("silc predict answer needs a question; give --question 'how many dogs are there?'")
    images = predictions.images_of(command.images, command.task)
    predictions.keep_images(images, out)
    second_encoder(command.decoder, command.second)
    config = EvalConfig(segmentation=command.segmentation, decoder=command.decoder, batch_size=command.batch_size)
    into = "" if out is None else f" into {out}"
    announce(f"predict: {command.task} {len(images.files)} images with {command.model}{into}")
    from silc.eval.decoders import DECODERS
    from silc.loading import load

    one_of(DECODERS, command.decoder, "decoder")
    model = load(command.model, weights=command.weights, tokenizer=command.tokenizer or None, device=command.device)
    if command.second:
        model.second = load(command.second, device=command.device)
    match command.task, out:
        case "classify", _:
            say("\n".join(predictions.classify(model, images, names, out, command.templates, command.batch_size)))
        case "caption" | "answer", _:
            written = {name: getattr(command, name) for name in ("beams", "temperature", "top_p", "seed")}
            said = predictions.write(
                model, images, out, command.question, command.prefix, command.batch_size, **written
            )
            say("\n".join(said))
        case "embed", Path():
            predictions.embed(model, images, out, command.batch_size)
        case "segment", Path():
            overlay = {"alpha": command.alpha, "legend": command.legend, "edges": command.edges}
            predictions.segment(model, images, names, out, config, **overlay)
        case "detect", Path():
            shown = {"score": command.score, "most": command.most}
            predictions.detect(model, images, names, out, command.templates, command.batch_size, **shown)
    if images.unreadable:
        told = "the JSON names them" if out else "; ".join(one["why"] for one in images.unreadable)
        complain(f"{len(images.unreadable)} files are no images; {told}")
    say(f"{command.task}: {len(images.files) - len(images.unreadable)} images{f': {out}' if out else ''}")
    return 0

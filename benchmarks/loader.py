"""From JPEG to views, and from tar to bytes: rates of one core beside torchvision's, Pillow's and webdataset's."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import time
import warnings
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.baselines.loader import PillowCrops, TorchvisionCrops, sequential_bytes, torchvision_decode
from benchmarks.measure import Row, Target, in_turns
from silc.data.collate import PairCollate
from silc.data.config import CropConfig, ObjectsConfig
from silc.data.crops import MultiCrop
from silc.data.loader import Loader, LoaderPlan
from silc.data.objects import ObjectPairs
from silc.data.open_files import OpenFiles
from silc.data.remote import without_secrets
from silc.data.shards import ShardPairs
from silc.data.sources import expand
from silc.data.tar import ShardIndex, index_shard
from silc.data.tokenizer import BPETokenizer
from silc.distributed import World
from silc.errors import BadInput
from silc.images import decode_pixels, decode_rgb
from silc.preprocess import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from benchmarks.suite import BenchConfig
    from silc.batch import Batch

SIZE = 256
NUM_IMAGES = 32
NUM_READ = 1000
TURNS = 9
NUM_DRAWN = 500
QUALITY = 85  # 105 kB for 0.2 megapixels; an average image of ImageNet has 108


def rows(config: BenchConfig) -> list[Row]:
    """Rows 1, 3 and 16. One thread, and the processor's time: other work on the machine disturbs that less."""
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        made = [] if config.images else [write_shard(Path(folder) / "0.tar", photographs(NUM_IMAGES), NUM_READ)]
        paths = expand(config.images) if config.images else made
        if not all(isinstance(path, Path) for path in paths):
            raise BadInput(f"--images {without_secrets(config.images)} is elsewhere; name shards of this machine")
        shards = [index_shard(path) for path in paths]
        images = _some(shards)
        return [*_crops(images, _loader(shards)), _reading(shards), _drawing()]


def photographs(num: int, size: tuple[int, int] = (512, 384)) -> list[bytes]:
    """JPEGs of noise whose spectrum falls as a photograph's does (1/f): as many bytes a pixel, so as long to decode."""
    width, height = size
    across, down = np.fft.rfftfreq(width) * width, np.fft.fftfreq(height) * width
    amplitude = 1 / np.maximum(np.hypot(across[None], down[:, None]), 1)
    encoded = []
    for number in range(num):
        rng = np.random.default_rng(number)
        phases = np.exp(2j * np.pi * rng.random((3, *amplitude.shape)))
        planes = np.fft.irfft2(amplitude * phases, (height, width))
        planes *= np.array([50, 15, 15])[:, None, None] / planes.std(axis=(1, 2), keepdims=True)
        pixels = (128 + planes).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels), "YCbCr").save(buffer, "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def write_shard(path: Path, images: Sequence[bytes], num: int) -> Path:
    """A tar of `num` samples that have these images in turn, and two captions each."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(num):
            captions = json.dumps({"captions": [f"photograph number {number}", "noise, coloured as photographs are"]})
            for extension, data in (("jpg", images[number % len(images)]), ("json", captions.encode())):
                header = tarfile.TarInfo(f"{number:06d}.{extension}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return path


def _drawing() -> Row:
    """Generated objects with their captions; a run on a CPU must not wait for them."""
    pairs = ObjectPairs(ObjectsConfig(), seed=0)
    rates = []
    for _ in range(5):
        before = time.process_time()
        for index in range(NUM_DRAWN):
            pairs[index]
        rates.append(NUM_DRAWN / (time.process_time() - before))
    figures = {"fastest": max(rates), "slowest": min(rates)}
    return Row(16, "generated objects of 64 pixels", max(rates), "images/s", Target("at least", 1000), figures)


def _crops(images: Sequence[bytes], loader: Loader[Batch]) -> list[Row]:
    crops, steps = CropConfig(), count()
    decoders = {"simplejpeg": simplejpeg.decode_jpeg, "torchvision": torchvision_decode, "pillow": decode_rgb}
    turns = in_turns(
        {
            **{f"decode_{name}": _each(decode, images) for name, decode in decoders.items()},
            "ours": _each(_ours(crops), images),
            "torchvision": _each(TorchvisionCrops(crops, SIZE), images),
            "pillow": _each(PillowCrops(crops, SIZE), images),
            "loader": lambda: list(loader.batches(step := next(steps), step + 1)),  # as many images
        },
        turns=TURNS,
        clock=time.process_time,
    )
    figures = {f"{name}_images_per_s": len(images) / turns.median(name) for name in turns.seconds}
    fastest = max(decoders, key=lambda name: figures[f"decode_{name}_images_per_s"])
    sizes = [decode_rgb(data).size for data in images]
    figures |= {
        "megapixels": float(np.mean([width * height for width, height in sizes]) / 1e6),
        "kilobytes": float(np.mean([len(data) for data in images]) / 1e3),
    }
    what = f"{crops.num_global} x {SIZE} + {crops.num_local} x {crops.local_size} views of a JPEG"
    return [
        Row(
            1,
            f"{what}: share of the rate of decoding ({fastest})",
            turns.ratio(f"decode_{fastest}", "ours"),
            "",
            AT_LEAST_HALF,
            figures,
        ),
        Row(1, f"{what}: torchvision's time over ours", turns.ratio("torchvision", "ours"), "x", TWICE, figures),
        Row(1, f"{what}: Pillow's time over ours", turns.ratio("pillow", "ours"), "x", TWICE, figures),
    ]


def _reading(shards: Sequence[ShardIndex]) -> Row:
    places = [(shard.path, sample) for shard in shards for sample in shard.samples]
    order = np.random.default_rng(0).permutation(len(places))[:NUM_READ].tolist()
    files = OpenFiles()

    def indexed() -> int:
        read = 0
        for number in order:
            path, sample = places[number]
            read += sum(len(files.read(path, *sample[part].item())) for part in ("image", "json"))
        return read

    turns = in_turns(
        {
            "indexed": indexed,
            "webdataset": lambda: sequential_bytes([str(shard.path) for shard in shards], len(order)),
        },
        turns=TURNS,
        clock=time.process_time,
    )
    figures = {f"{name}_samples_per_s": len(order) / turns.median(name) for name in turns.seconds}
    what = "tar samples in random order: webdataset's time in sequence over ours"
    return Row(3, what, turns.ratio("webdataset", "indexed"), "x", Target("at least", 3), figures)


AT_LEAST_HALF, TWICE = Target("at least", 0.5), Target("at least", 2)


def _ours(crops: CropConfig) -> Callable[[bytes], tuple[Tensor | None, ...]]:
    """What the loader makes of one image, each time for another visit."""
    multi_crop, turns = MultiCrop(crops, size=SIZE, original=False, preprocess=Preprocess(SIZE)), count()
    return lambda data: multi_crop(decode_pixels(data), (0, 0, next(turns)))


def _loader(shards: Sequence[ShardIndex]) -> Loader[Batch]:
    """All of it: reading, order, captions, tokens, batches."""
    pairs = ShardPairs([shard.path for shard in shards])
    tokenizer = BPETokenizer.train(pairs.captions(200), 300, 64)
    views = MultiCrop(CropConfig(), size=SIZE, original=False, preprocess=Preprocess(SIZE))
    plan = LoaderPlan(NUM_IMAGES, seed=0, shuffle_shards=64, workers=0)
    return Loader(pairs, PairCollate(views, tokenizer), plan, World())


def _some(shards: Sequence[ShardIndex]) -> list[bytes]:
    """The bytes of JPEGs at equal distances."""
    files = OpenFiles()
    places = [
        (shard.path, sample["image"])
        for shard in shards
        if isinstance(shard.path, Path)
        for sample in shard.samples
        if sample["image"]["offset"]
    ]
    chosen = places[:: max(1, len(places) // (2 * NUM_IMAGES))]
    found = (files.read(path, *member.item()) for path, member in chosen)
    return [data for data in found if data[:2] == b"\xff\xd8"][:NUM_IMAGES]


def _each(function: Callable[[bytes], object], images: Sequence[bytes]) -> Callable[[], object]:
    def run() -> None:
        for data in images:
            function(data)  # and forget it: what is kept has to be found room for

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            # torchvision's decoder says at each call that it will go; it is still the one beside its transforms.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        torch.set_num_threads(before)

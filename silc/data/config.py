"""Settings of the data: sources, crops, colour changes, tokenizer and loading."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.errors import BadInput
from silc.settings import SHARE, Range, Settings

VIEWS, AREA = Range(least=0, most=100), Range(above=0, most=1)


@dataclass(frozen=True)
class CropConfig(Settings):
    """Multi-crop: 2 global and 8 local views. Numbers and areas are as readers of SILC quote them (docs/method.md)."""

    section: ClassVar[str] = "data.crops"
    num_global: Annotated[int, VIEWS] = 2
    """Global views per image."""
    global_area: Annotated[tuple[float, float], AREA] = (0.4, 1.0)
    """Fraction of the image's area that a global view covers, drawn uniformly from this range."""
    num_local: Annotated[int, VIEWS] = 8
    """Local views per image; only the student sees them."""
    local_size: Annotated[int, Range(least=1, most=4096)] = 96
    """Side of a local view in pixels."""
    local_area: Annotated[tuple[float, float], AREA] = (0.05, 0.4)
    """Fraction of the image's area that a local view covers, drawn uniformly from this range."""
    aspect: Annotated[tuple[float, float], Range(least=0.01, most=100)] = (3 / 4, 4 / 3)
    """Aspect ratio (width/height) of a view, drawn log-uniformly."""
    flip: bool = True
    """Mirror each view with probability one half."""
    scaled_decoding: bool = False
    """Decode JPEGs at 1/8, 1/4 or 1/2 scale if no possible crop would then be upscaled: for photographs of 2
    megapixels and more. The pixel values of a view then change by 0.6 to 1.2 of 255 on average, as if the crop box
    were one pixel narrower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_area", "local_area", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise BadInput(f"{self.named(name)} is ({low}, {high}); needed the lower number first")


@dataclass(frozen=True)
class PhotometricConfig(Settings):
    """Colour changes of global and local views, never of the whole image, with DINO's constants
    (`main_dino.py:DataAugmentationDINO`). SILC uses none, because captions name colours.
    """

    section: ClassVar[str] = "data.photometric"
    on: bool = False
    """Change the colours of views."""
    jitter: Annotated[tuple[float, float, float, float], Range(least=0, most=100)] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast and saturation (as a fraction) and of hue (in turns of the circle)."""
    jitter_prob: Annotated[float, SHARE] = 0.8
    """Probability of colour jitter for a view; the four changes are made in random order."""
    grey_prob: Annotated[float, SHARE] = 0.2
    """Probability that a view is turned to grey."""
    blur_prob: Annotated[tuple[float, float, float], SHARE] = (1.0, 0.1, 0.5)
    """Probability of blur for global views 0, 2, 4, ..., for global views 1, 3, 5, ..., and for local views."""
    blur_radius: Annotated[tuple[float, float], Range(least=0, most=100)] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, drawn uniformly from this range."""
    solarise_prob: Annotated[tuple[float, float, float], SHARE] = (0.0, 0.2, 0.0)
    """Probability of solarisation (values of 128 and more are inverted), for the three groups of blur_prob."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jitter[3] > 0.5:
            raise BadInput(
                f"data.photometric.jitter is {self.jitter}; the last number, for the hue, must be at most 0.5"
            )
        if self.blur_radius[0] > self.blur_radius[1]:
            raise BadInput(f"data.photometric.blur_radius is {self.blur_radius}; needed the lower number first")


@dataclass(frozen=True)
class GeneratedConfig(Settings):
    """Settings that every generated source has."""

    num: Annotated[int, Range(least=1, most=100_000_000)] = 20_000
    """Pairs in an epoch."""
    size: Annotated[int, Range(least=16, most=4096)] = 64
    """Side of an image in pixels."""


@dataclass(frozen=True)
class ScenesConfig(GeneratedConfig):
    """Generated scenes: regions of colour and texture with captions and pixel labels."""

    section: ClassVar[str] = "data.scenes"


@dataclass(frozen=True)
class ObjectsConfig(GeneratedConfig):
    """Generated images of one to three objects on a ground, with captions, pixel labels, boxes and questions."""

    section: ClassVar[str] = "data.objects"
    most: Annotated[int, Range(least=1, most=3)] = 3
    """Maximum number of objects in an image; all numbers from 1 to this are equally frequent."""
    badge: Annotated[float, Range(least=0, most=0.4)] = 1 / 7
    """Approximate fraction of an object's area with a colour unique to its name (easy to learn); 0: no such part."""
    contrast: Annotated[float, Range(least=0, most=1)] = 1.0
    """Contrast of the body's grey texture, which is unique to the object's name (hard to learn)."""
    at_home: Annotated[float, SHARE] = 0.4
    """Fraction of the objects that stand on the home ground of their name."""
    caption_noise: Annotated[float, SHARE] = 0.0
    """Fraction of wrong captions: a word is missing or changed, or the text is unrelated to the image."""


@dataclass(frozen=True)
class DataConfig(Settings):
    """Where pairs come from and how they are read."""

    section: ClassVar[str] = "data"
    source: Literal["shards", "scenes", "objects"] = "shards"
    """`shards`: the files that `train` names; setting `train` selects it. The others are generated from the seed."""
    train: str = ""
    """WebDataset/img2dataset tar shards: a path, a glob or a brace pattern ('/data/{00000..00331}.tar'), several joined
    by '::'; http://, https:// and s3:// addresses likewise (pip install -e '.[remote]'). Or a folder of images with a
    table (captions.jsonl, .json, .csv, .tsv or .txt), or the table itself. Each row of the table holds an image
    (file_name, image, filepath) and its caption (caption, captions, text, title)."""
    image_root: str = ""
    """Folder of a table's images. Relative paths in the table start here; absolute paths must lie inside it. A path
    that leaves the folder by '..' or a link is a broken sample. Empty: the table's folder."""
    subset: str = ""
    """Train on a subset of the shards' samples: a sorted .npy of uids, as `silc data select` and DataComp's filters
    write it. The uid is read from the sample's JSON, or made from the shard's name, key and url. Empty: all samples."""
    captions: Literal["drawn", "first", "best"] = "drawn"
    """The caption that a visit of an image uses: a random one (drawn at each visit), the first, or the one with the
    best score; `silc data select` writes the best ones beside the subset."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Used when `source` is `scenes`."""
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    """Used when `source` is `objects`."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Crops of each image."""
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    """Colour changes of the views."""
    tokenizer: str = ""
    """A tokenizer.json, or a directory that holds one. Empty: a byte-level BPE is trained on the captions."""
    vocab_size: Annotated[int, Range(least=260, most=10_000_000)] = 32_000
    """Size of the vocabulary when a tokenizer is trained; small corpora may give fewer entries."""
    workers: Annotated[int, Range(least=0, most=1024)] = 2
    """Loader processes per rank; 0 loads in the training process. It does not change the order of samples."""
    shuffle_shards: Annotated[int, Range(least=1, most=1_000_000)] = 64
    """Number of shards that are shuffled together. Larger mixes better; smaller reads more sequentially."""
    index_cache: str = ""
    """Folder for the index of each shard (where its samples are), so that a shard is scanned once, not at each start.
    Empty: silc/index in your cache folder ($XDG_CACHE_HOME, else ~/.cache). `off`: no cache."""
    remote_patience: Annotated[float, Range(least=0, most=604_800)] = 300.0
    """Seconds of retries before an unreadable remote shard stops the run. The restart or failover of a server takes
    seconds to a few minutes; a longer outage needs a person, and every rank waits meanwhile. 0: one try."""
    remote_cache: str = ""
    """Cache folder for the bytes read from remote shards, best on a local disk. Empty: silc/shards in your cache
    folder. `off`: no cache, so every epoch reads over the network again."""
    remote_cache_gb: Annotated[float, Range(above=0, most=1e6, advice="data.remote_cache off: no cache")] = 10.0
    """Maximum size of that folder in GB; the least recently used shards are deleted first. The cache helps later
    epochs if all shards fit."""
    accept_changed_shards: bool = False
    """Resume although the shards differ from those of the checkpoint. A run that has read n samples goes on
    as if they were the first n of the new list, counted over its epochs. So some samples may be read twice and others
    later. Durations in epochs then count epochs of the new list."""
    max_pixels: Annotated[int, Range(least=1, most=10_000_000_000)] = 64_000_000
    """Images with more pixels are rejected by their header, before decoding."""
    exif_orientation: Literal["ignore", "apply"] = "ignore"
    """Use of the EXIF orientation: `apply` turns a photograph upright, as image viewers do; `ignore` keeps it as
    stored. Recipes use `apply`; older runs keep the value they started with."""
    max_bad_rate: Annotated[float, SHARE] = 0.1
    """The run stops when more than this fraction of the samples read by all ranks is broken."""

    @property
    def generated(self) -> GeneratedConfig | None:
        """Settings of the selected generated source (the section of the same name); None for `shards`."""
        found: GeneratedConfig | None = getattr(self, self.source, None)
        return found

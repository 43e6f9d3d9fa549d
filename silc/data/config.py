"""What is read, and which views are drawn of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.errors import BadInput
from silc.settings import SHARE, Range, Settings

VIEWS, AREA = Range(least=0, most=100), Range(above=0, most=1)


@dataclass(frozen=True)
class CropConfig(Settings):
    """Multi-crop: 2 global and 8 local views. Numbers and areas are those SILC's readers quote (docs/method.md)."""

    section: ClassVar[str] = "data.crops"
    num_global: Annotated[int, VIEWS] = 2
    """Global views per image."""
    global_area: Annotated[tuple[float, float], AREA] = (0.4, 1.0)
    """Share of the image's area a global view covers, drawn uniformly."""
    num_local: Annotated[int, VIEWS] = 8
    """Local views per image; only the student sees them."""
    local_size: Annotated[int, Range(least=1, most=4096)] = 96
    """Side of a local view in pixels."""
    local_area: Annotated[tuple[float, float], AREA] = (0.05, 0.4)
    """Share of the image's area a local view covers, drawn uniformly."""
    aspect: Annotated[tuple[float, float], Range(least=0.01, most=100)] = (3 / 4, 4 / 3)
    """Aspect ratio (width/height) of a view, drawn log-uniformly."""
    flip: bool = True
    """Mirror each view with probability one half."""
    scaled_decoding: bool = False
    """Decode JPEGs at an eighth, a quarter or half of their sides where no possible crop would be upscaled:
    for photographs of 2 megapixels and more. Values of a view then differ by 0.6 to 1.2 of 255 on average, as if its
    box were a pixel narrower."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_area", "local_area", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise BadInput(f"{self.named(name)} is ({low}, {high}); needed the lower number first")


@dataclass(frozen=True)
class PhotometricConfig(Settings):
    """What is done to the colours of global and local views, never to the whole image; DINO's constants
    (`main_dino.py:DataAugmentationDINO`). Off in SILC, whose captions name colours.
    """

    section: ClassVar[str] = "data.photometric"
    on: bool = False
    """Change the colours of views."""
    jitter: Annotated[tuple[float, float, float, float], Range(least=0, most=100)] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast and saturation, as a share, and of hue, in turns of the circle."""
    jitter_prob: Annotated[float, SHARE] = 0.8
    """Probability that a view is jittered; the four changes come in random order."""
    grey_prob: Annotated[float, SHARE] = 0.2
    """Probability that a view loses its colours."""
    blur_prob: Annotated[tuple[float, float, float], SHARE] = (1.0, 0.1, 0.5)
    """Probability of blur for the first global view (and every other one after it), the second, and local views."""
    blur_radius: Annotated[tuple[float, float], Range(least=0, most=100)] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, drawn uniformly."""
    solarise_prob: Annotated[tuple[float, float, float], SHARE] = (0.0, 0.2, 0.0)
    """Probability that values from 128 on are inverted; for views as in blur_prob."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.jitter[3] > 0.5:
            raise BadInput(f"data.photometric.jitter is {self.jitter}; needed at most 0.5 for the last, the hue's")
        if self.blur_radius[0] > self.blur_radius[1]:
            raise BadInput(f"data.photometric.blur_radius is {self.blur_radius}; needed the lower number first")


@dataclass(frozen=True)
class GeneratedConfig(Settings):
    """What every generated source is told."""

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
    """Generated objects with parts: one to three on a ground, with captions, pixel labels, boxes and questions."""

    section: ClassVar[str] = "data.objects"
    most: Annotated[int, Range(least=1, most=3)] = 3
    """Most objects in an image; each number of them is as frequent."""
    badge: Annotated[float, Range(least=0, most=0.4)] = 1 / 7
    """Share of an object, about, that shows a colour which its name alone has (easy); 0: no such part."""
    contrast: Annotated[float, Range(least=0, most=1)] = 1.0
    """Contrast of the grey textures of bodies, which their names alone have (hard)."""
    at_home: Annotated[float, SHARE] = 0.4
    """Share of the objects that stand on the ground where their name is at home."""
    caption_noise: Annotated[float, SHARE] = 0.0
    """Share of the captions that leave out or change a word, or have nothing to do with the image."""


@dataclass(frozen=True)
class DataConfig(Settings):
    """Where pairs come from and how they are read."""

    section: ClassVar[str] = "data"
    source: Literal["shards", "scenes", "objects"] = "shards"
    """`shards`: what `train` names; giving `train` selects it. Others are generated from the seed."""
    train: str = ""
    """WebDataset/img2dataset tar shards: a path, a glob or a brace pattern ('/data/{00000..00331}.tar'), several joined
    by '::'; http://, https:// and s3:// addresses likewise (pip install -e '.[remote]'). Or a folder of images with a
    table (captions.jsonl, .json, .csv, .tsv or .txt), or the table: an image (file_name, image, filepath) and its
    caption (caption, captions, text, title) a row."""
    image_root: str = ""
    """Folder of a table's images: paths of its rows are read under it, absolute ones too if they lie in it; what leads
    out of it, by '..' or a link, is a broken sample. Empty: the table's folder."""
    subset: str = ""
    """Train on some of the samples of shards: a sorted .npy of uids, as `silc data select` and DataComp's filters write
    it. A sample's uid is that of its JSON, else it is made of the shard's name, its key and its url. Empty: all."""
    captions: Literal["drawn", "first", "best"] = "drawn"
    """Which of an image's captions a visit takes: drawn anew each time, the first, or the one that scored best, as
    `silc data select` wrote beside the subset."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Used when `source` is `scenes`."""
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    """Used when `source` is `objects`."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Views drawn of each image."""
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    """Colours of the views."""
    tokenizer: str = ""
    """A tokenizer.json, or a directory that holds one. Empty: a byte-level BPE is trained on the captions."""
    vocab_size: Annotated[int, Range(least=260, most=10_000_000)] = 32_000
    """Size of the vocabulary when a tokenizer is trained; small corpora may give fewer entries."""
    workers: Annotated[int, Range(least=0, most=1024)] = 2
    """Loader processes per rank; 0 loads in the training process. The order of samples does not depend on it."""
    shuffle_shards: Annotated[int, Range(least=1, most=1_000_000)] = 64
    """Shards that are mixed with one another at a time; larger mixes better, smaller reads more sequentially."""
    index_cache: str = ""
    """Folder that keeps where the samples of each shard are, so that a shard is walked once and not at each start.
    Empty: silc/index in your cache folder ($XDG_CACHE_HOME, else ~/.cache). `off`: nothing is kept."""
    remote_patience: Annotated[float, Range(least=0, most=604_800)] = 300.0
    """Seconds for which a remote shard that cannot be read is tried again before the run stops: a server's restart or a
    failover takes seconds to a few minutes; what takes longer wants a person, and holds up every rank. 0: one try."""
    remote_cache: str = ""
    """Folder that keeps what was read of remote shards, best on a disk of this machine. Empty: silc/shards in your
    cache folder. `off`: nothing is kept, every epoch reads over the network again."""
    remote_cache_gb: Annotated[float, Range(above=0, most=1e6, advice="data.remote_cache off: no cache")] = 10.0
    """Most that folder may hold, in GB; the shards used longest ago go first. It helps later epochs, if all fits."""
    accept_changed_shards: bool = False
    """Resume though the shards are not those of the checkpoint. The position in samples is kept: a run that has read n
    samples goes on with number n of the new list's order, in the epoch that number falls in there. What of the new list
    was read before may so come again, or come later; durations in epochs are counted in epochs of the new list."""
    max_pixels: Annotated[int, Range(least=1, most=10_000_000_000)] = 64_000_000
    """Images above this are refused from their header, undecoded."""
    exif_orientation: Literal["ignore", "apply"] = "ignore"
    """Whether a photograph is turned as EXIF says that the camera was held: `apply`, as viewers show it, or `ignore`,
    as it is stored. Recipes apply; a run from before goes on as it began."""
    max_bad_rate: Annotated[float, SHARE] = 0.1
    """The run stops once more than this share of the samples read, by all ranks, is broken."""

    @property
    def generated(self) -> GeneratedConfig | None:
        """Settings of the generated source that is selected, which are the section of its name; None if files are."""
        found: GeneratedConfig | None = getattr(self, self.source, None)
        return found

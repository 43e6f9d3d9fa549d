"""What is read, and which views are drawn of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from silc.types import BadInput


@dataclass(frozen=True)
class CropConfig:
    """Multi-crop: 2 global and 8 local views. Numbers and areas are those SILC's readers quote (docs/method.md)."""

    num_global: int = 2
    """Global views per image."""
    global_area: tuple[float, float] = (0.4, 1.0)
    """Share of the image's area a global view covers, drawn uniformly."""
    num_local: int = 8
    """Local views per image; only the student sees them."""
    local_size: int = 96
    """Side of a local view in pixels."""
    local_area: tuple[float, float] = (0.05, 0.4)
    """Share of the image's area a local view covers, drawn uniformly."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect ratio (width/height) of a view, drawn log-uniformly."""
    flip: bool = True
    """Mirror each view with probability one half."""
    scaled_decoding: bool = False
    """Decode JPEGs at an eighth, a quarter or half of their sides where no view that can be drawn is enlarged by it:
    for photographs of 2 megapixels and more. Values of a view then differ by 0.6 to 1.2 of 255 on average, as if its
    box were a pixel narrower."""

    def __post_init__(self) -> None:
        for name in ("global_area", "local_area"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise BadInput(f"crops.{name} is ({low}, {high}); needed 0 < low <= high <= 1")
        if self.aspect[0] <= 0 or self.aspect[1] < self.aspect[0]:
            raise BadInput(f"crops.aspect is {self.aspect}; needed 0 < low <= high")
        if min(self.num_global, self.num_local) < 0 or self.local_size < 1:
            raise BadInput("crops.num_global and crops.num_local must be >= 0, crops.local_size >= 1")


@dataclass(frozen=True)
class PhotometricConfig:
    """What is done to the colours of global and local views, never to the whole image; DINO's constants
    (`main_dino.py:DataAugmentationDINO`). Off in SILC, whose captions name colours.
    """

    on: bool = False
    """Change the colours of views."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    """Largest change of brightness, contrast and saturation, as a share, and of hue, in turns of the circle."""
    jitter_prob: float = 0.8
    """Probability that a view is jittered; the four changes come in random order."""
    grey_prob: float = 0.2
    """Probability that a view loses its colours."""
    blur_prob: tuple[float, float, float] = (1.0, 0.1, 0.5)
    """Probability of blur for the first global view (and every other one after it), the second, and local views."""
    blur_radius: tuple[float, float] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of the view, drawn uniformly."""
    solarise_prob: tuple[float, float, float] = (0.0, 0.2, 0.0)
    """Probability that values from 128 on are inverted; for views as in blur_prob."""

    def __post_init__(self) -> None:
        for name in ("jitter_prob", "grey_prob", "blur_prob", "solarise_prob"):
            value = getattr(self, name)
            if not all(0 <= share <= 1 for share in (value if isinstance(value, tuple) else (value,))):
                raise BadInput(f"photometric.{name} is {value}; needed probabilities between 0 and 1")
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise BadInput(f"photometric.jitter is {self.jitter}; needed numbers >= 0, the hue's at most 0.5")
        if not 0 <= self.blur_radius[0] <= self.blur_radius[1]:
            raise BadInput(f"photometric.blur_radius is {self.blur_radius}; needed 0 <= low <= high")


@dataclass(frozen=True)
class ScenesConfig:
    """Generated scenes: regions of colour and texture with captions and pixel labels."""

    num: int = 20_000
    """Scenes in an epoch."""
    size: int = 64
    """Side of a scene in pixels."""

    def __post_init__(self) -> None:
        if self.num < 1 or self.size < 16:
            raise BadInput("data.scenes.num must be >= 1, data.scenes.size >= 16")


@dataclass(frozen=True)
class DataConfig:
    """Where pairs come from and how they are read."""

    source: Literal["shards", "scenes"] = "shards"
    """`shards`: what `train` names. `scenes`: rendered on the fly from the seed."""
    train: str = ""
    """WebDataset/img2dataset tar shards: a path, a glob or a brace pattern ('/data/{00000..00331}.tar'), several joined
    by '::'; http://, https:// and s3:// addresses likewise (pip install 'silc[remote]'). Or a folder of images with a
    table (captions.jsonl, .json, .csv, .tsv or .txt), or the table: an image (file_name, image, filepath) and its
    caption (caption, captions, text, title) a row."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Used when `source` is `scenes`."""
    crops: CropConfig = field(default_factory=CropConfig)
    """Views drawn of each image."""
    photometric: PhotometricConfig = field(default_factory=PhotometricConfig)
    """Colours of the views."""
    tokenizer: str = ""
    """A tokenizer.json, or a directory that holds one. Empty: a byte-level BPE is trained on the captions."""
    vocab_size: int = 32_000
    """Size of the vocabulary when a tokenizer is trained; small corpora may give fewer entries."""
    workers: int = 2
    """Loader processes per rank; 0 loads in the training process. The order of samples does not depend on it."""
    shuffle_shards: int = 64
    """Shards that are mixed with one another at a time; larger mixes better, smaller reads more sequentially."""
    index_cache: str = ""
    """Folder that keeps where the samples of each shard are, so that a shard is walked once and not at each start.
    Empty: silc/index in your cache folder ($XDG_CACHE_HOME, else ~/.cache). `off`: nothing is kept."""
    remote_patience: float = 300.0
    """Seconds for which a remote shard that cannot be read is tried again before the run stops: a server's restart or a
    failover takes seconds to a few minutes; what takes longer wants a person, and holds up every rank. 0: one try."""
    remote_cache: str = ""
    """Folder that keeps what was read of remote shards, best on a disk of this machine. Empty: silc/shards in your
    cache folder. `off`: nothing is kept, every epoch reads over the network again."""
    remote_cache_gb: float = 10.0
    """Most that folder may hold, in GB; the shards used longest ago go first. It helps later epochs, if all fits."""
    accept_changed_shards: bool = False
    """Resume though the shards are not those of the checkpoint. The position in samples is kept: a run that has read n
    samples goes on with number n of the new list's order, in the epoch that number falls in there. What of the new list
    was read before may so come again, or come later; durations in epochs are counted in epochs of the new list."""
    max_pixels: int = 64_000_000
    """Images above this are refused from their header, undecoded."""
    max_bad_rate: float = 0.1
    """The run stops once more than this share of the samples read, by all ranks, is broken."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.shuffle_shards < 1 or self.vocab_size < 260:
            raise BadInput("data.workers must be >= 0, data.shuffle_shards >= 1, data.vocab_size >= 260")
        if self.max_pixels < 1:
            raise BadInput("data.max_pixels must be >= 1")
        if self.remote_patience < 0 or self.remote_cache_gb <= 0:
            raise BadInput(
                "data.remote_patience must be >= 0, data.remote_cache_gb > 0 (data.remote_cache off: no cache)"
            )
        if not 0 <= self.max_bad_rate <= 1:
            raise BadInput(f"data.max_bad_rate is {self.max_bad_rate}; needed a share between 0 and 1")

"""The API's requests and answers, as types: checked by pydantic and described by OpenAPI."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from silc.serve.pictures import NAME

MOST_PICTURES, MOST_NAMES, LONGEST_NAME, LONGEST_CHOICE = 8, 100, 200, 1000

Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, strip_whitespace=True)]
Choice = Annotated[str, StringConstraints(max_length=LONGEST_CHOICE)]
PictureName = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Png = Annotated[str, Field(description="A PNG file, in base64.")]


class Request(BaseModel):
    """What every request names: a model, and pictures that were sent before."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[Choice, Field(description="The `id` of one of the server's models.")]
    pictures: Annotated[list[PictureName], Len(1, MOST_PICTURES)]


class Named(Request):
    """A request with names of classes."""

    names: Annotated[list[Text], Len(1, MOST_NAMES), Field(description="The classes; each name once.")]


class SegmentRequest(Named):
    """Ask for the class of each pixel."""

    decoder: Choice = "cosine"
    windows: Annotated[Choice, Field(description="Sliding windows, as in `silc eval --segmentation`.")] = "tcl"
    heat: Annotated[bool, Field(description="Whether to send a heat map of each word.")] = False


class ClassifyRequest(Named):
    """Ask which of the classes a picture shows."""

    templates: Annotated[Choice, Field(description="Name of the prompt set for the class names.")] = "clip7"


class SimilarRequest(Request):
    """Ask which patches are similar to one of the first picture's."""

    x: Annotated[Share, Field(description="Share of the first picture's width, from the left.")]
    y: Annotated[Share, Field(description="Share of its height, from the top.")]


class DetectRequest(Named):
    """Ask for boxes of things."""

    templates: Choice = "clip7"
    score: Annotated[Share, Field(description="Boxes with a lower score are left out.")] = 0.1


class AnswerRequest(Request):
    """Ask a question in words."""

    question: Text


class PictureAnswer(BaseModel):
    """A picture that was sent."""

    id: str
    width: int
    height: int


class Example(PictureAnswer):
    """A picture that the server has from the start."""

    title: str
    names: list[str]


class ModelInfo(BaseModel):
    """A model of the server."""

    id: str
    size: Annotated[int, Field(description="Side in pixels of the images that the model was made for.")]
    patch: int
    description: str
    decoders: list[str]
    detects: bool
    captions: bool
    answers: bool


class ServerInfo(BaseModel):
    """What the server offers."""

    version: str
    models: list[ModelInfo]
    templates: list[str]
    windows: list[str]
    examples: list[Example]
    colours: Annotated[
        list[tuple[int, int, int]], Field(description="Colours of the classes, in the order of `names`.")
    ]
    picture_bytes: int
    pixels: int
    most_names: int


class Rle(BaseModel):
    """A mask as in COCO's files."""

    size: Annotated[tuple[int, int], Field(description="Height, width.")]
    counts: str


class Mask(BaseModel):
    """A class in a picture."""

    name: str
    share: Annotated[float, Field(description="Share of the picture's pixels.")]
    rle: Rle


class Heat(BaseModel):
    """How similar each part of a picture is to each word, on one scale for all words."""

    low: float
    high: float
    maps: Annotated[list[Png], Field(description="Grey images, one per word, from `low` (black) to `high` (white).")]


class Segmented(BaseModel):
    """A picture's classes."""

    labels: Annotated[str, Field(description="A PNG file in base64, whose values index the names.")]
    masks: list[Mask]
    heat: Heat | None = None


class Segmentations(BaseModel):
    """An answer for each picture, in order."""

    results: list[Segmented]


class Probability(BaseModel):
    """The probability of a name."""

    name: str
    probability: float


class Classifications(BaseModel):
    """The probabilities of each picture, the likeliest first."""

    results: list[list[Probability]]


class Components(BaseModel):
    """The first three principal components of all the pictures' patches, as colours."""

    results: list[Png]


class Likeness(BaseModel):
    """Cosines of a picture's patches with the chosen one, row by row."""

    rows: int
    columns: int
    values: list[float]


class Similarities(BaseModel):
    """The patch that was chosen, and the similarity of each picture's patches to it."""

    row: int
    column: int
    results: list[Likeness]


class Box(BaseModel):
    """A box, in pixels of the picture."""

    name: str
    score: float
    x: float
    y: float
    width: float
    height: float


class Detections(BaseModel):
    """The boxes of each picture, the surest first."""

    results: list[list[Box]]


class Written(BaseModel):
    """A text for each picture, in order."""

    results: list[str]


class Fault(BaseModel):
    """What went wrong, in one line."""

    detail: str

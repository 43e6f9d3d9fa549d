"""A server's models, and its application without a port."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from silc.predict import Model
from silc.serve.answers import loaded
from silc.serve.app import application
from silc.serve.examples import examples


@pytest.fixture(scope="session")
def models(finished: Callable[..., Path]) -> dict[str, Model]:
    """A run's student and teacher, 16 px in patches of 8."""
    return loaded([str(finished("silc_c"))], "both", "cpu")


@pytest.fixture
def client(models: dict[str, Model]) -> Iterator[TestClient]:
    """What asks the application, as if from this machine."""
    with TestClient(application(models, examples=examples(16)), base_url="http://127.0.0.1:8000") as client:
        yield client


def picture(seed: int = 0, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """Coarse noise, which differs from patch to patch."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def file_of(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()

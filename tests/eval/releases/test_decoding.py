"""Label maps of raw releases: MATLAB's files against scipy's, run lengths against an encoder, ADE20K's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
from PIL import Image

from silc.errors import BadInput
from silc.eval.prompts import class_names
from silc.eval.releases import ade, context
from silc.eval.releases.matlab import read_matrix
from silc.eval.releases.rle import mask_of, runs_of


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f8"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (5, 7), (64, 48)])
def test_matrices_are_scipys(tmp_path, compressed, dtype, shape):
    file = tmp_path / "a.mat"
    label = np.random.default_rng(0).integers(0, 120, shape).astype(dtype)
    scipy.io.savemat(file, {"Other": np.eye(3), "LabelMap": label}, do_compression=compressed)
    assert np.array_equal(read_matrix(file, "LabelMap"), scipy.io.loadmat(file)["LabelMap"])
    assert np.array_equal(read_matrix(file, "Other"), np.eye(3))


def test_numbers_kept_in_a_narrower_type_are_read(tmp_path):
    """As MATLAB writes a matrix of uint16 that fits into bytes: scipy reads it, and so does this."""
    file = tmp_path / "a.mat"
    scipy.io.savemat(file, {"LabelMap": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    content = bytearray(file.read_bytes())
    flags = 128 + 16  # the class mxUINT8 becomes mxUINT16; the numbers stay bytes
    content[flags] = 11
    file.write_bytes(content)
    assert np.array_equal(read_matrix(file, "LabelMap"), scipy.io.loadmat(file)["LabelMap"])


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file" + b" " * 107 + b"\0\2IM", b"\0" * 200])
def test_what_is_no_matlab_file_is_told(tmp_path, content):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.mat") as raised:
        read_matrix(tmp_path / "a.mat", "LabelMap")
    assert "\n" not in str(raised.value)


def packed(mask):
    """Run lengths as pycocotools writes them, made of the description of its format."""
    flat, runs = mask.T.ravel(), []
    at, value = 0, False
    while at < len(flat):
        end = at
        while end < len(flat) and flat[end] == value:
            end += 1
        runs.append(end - at)
        at, value = end, not value
    text = ""
    for i, run in enumerate(runs):
        number, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            digit = number & 31
            number >>= 5
            more = number != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
    return {"size": list(mask.shape), "counts": text}, runs


@pytest.mark.parametrize("seed", range(5))
def test_masks_come_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 57)) < [0.02, 0.3, 0.5, 0.97, 1.1][seed]
    mask[:, 20:40] |= seed % 2 == 0  # long runs, whose differences are negative
    text, runs = packed(mask)
    assert runs_of(text["counts"]) == runs
    assert np.array_equal(mask_of(text, (40, 57)), mask)
    assert np.array_equal(mask_of({"size": [40, 57], "counts": runs}, (40, 57)), mask)


@pytest.mark.parametrize("size", [[40, 56], [57, 40]])
def test_a_mask_of_another_size_is_refused(size):
    text, _ = packed(np.ones((40, 57), bool))
    with pytest.raises(BadInput, match="pixels in its runs; its image has"):
        mask_of(text | {"size": size}, (40, 57))


# --- ADE20K


def test_numbers_of_847_classes():
    """MaskFormer's table. ADE20K numbers its names in the order of the alphabet, and newer ones behind."""
    names, numbers = class_names("ade_847"), ade.ids()
    assert len(set(numbers)) == 847
    assert [numbers[i] for i in (0, 1, 2, 11, 846)] == [2978, 312, 2420, 1831, 3148]
    old = sorted((number, name) for number, name in zip(numbers, names, strict=True) if number < 3100)
    assert len(old) == 827
    assert [name for _, name in old] == sorted(name for _, name in old)


@pytest.mark.parametrize(
    ("size", "smaller"), [((40, 30), (40, 30)), ((1100, 520), (1083, 512)), ((600, 1301), (512, 1110))]
)
def test_maps_of_colours_become_classes(tmp_path, size, smaller):
    """In a loop over pixels: red // 10 * 256 + green, at the place that cv2's nearest filter takes."""
    width, height = size
    numbers = np.array([0, 2978, 312, 3148, 7])[np.arange(width * height).reshape(height, width) // 97 % 5]
    colours = np.stack([numbers // 256 * 10 + 3, numbers % 256, np.full_like(numbers, 9)], -1)
    Image.fromarray(colours.astype(np.uint8)).save(tmp_path / "x_seg.png")
    found = ade.read_map(tmp_path / "x_seg.png")
    assert found.shape == smaller[::-1]
    classes = {2978: 0, 312: 1, 3148: 846}
    for y in range(0, smaller[1], 37):
        for x in range(0, smaller[0], 41):
            number = numbers[y * height // smaller[1], x * width // smaller[0]]
            assert found[y, x] == classes.get(int(number), 65_535)


def test_a_map_without_colours_is_told(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "x_seg.png")
    with pytest.raises(BadInput, match=r"x_seg\.png has no colours; a map of objects has them in red and green"):
        ade.read_map(tmp_path / "x_seg.png")


# --- Pascal Context


def test_59_classes_among_459():
    """The numbers of mmsegmentation's and CAT-Seg's scripts follow from the names."""
    published = [
        *(2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420, 454, 295, 296),
        *(427, 44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34, 207, 80, 355, 85, 347, 220),
        *(349, 360, 98, 187, 104, 105, 366, 189, 368, 113, 115),
    ]
    assert context.numbers_59() == sorted(published)


@pytest.mark.parametrize("value", [-1, 460])
def test_a_number_that_is_no_class_is_told(tmp_path, value):
    scipy.io.savemat(tmp_path / "a.mat", {"LabelMap": np.array([[1, value]], np.int16)})
    with pytest.raises(BadInput, match=r"must be a label map \[H, W\] of 0 to 459; it has"):
        context.read_459(tmp_path / "a.mat")

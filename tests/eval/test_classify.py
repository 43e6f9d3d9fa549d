"""The two protocols of zero-shot classification, and CLIP_benchmark's shards."""

from __future__ import annotations

import io
import tarfile

import pytest

from silc.errors import BadInput
from silc.eval.classify import ZeroShotClassification
from silc.eval.config import EvalConfig
from silc.eval.datasets import ClassificationSet
from silc.eval.layouts.webdataset import read_wds_classification, read_wds_retrieval
from silc.eval.retrieval import Retrieval


def two(flat, name="names", **fields):
    return ClassificationSet(name, "test", ["W1, something", "w2"], [flat(1), flat(2)], [0, 1], **fields)


@pytest.mark.parametrize(
    ("data", "config", "want"),
    [
        ({}, {}, ("clip80+1", True, "squash_crop, bicubic")),
        ({}, {"classification": "clip"}, ("clip80", False, "crop, bicubic")),
        ({"name": "cifar100"}, {"classification": "clip"}, ("cifar18", False, "crop, bicubic")),
        ({"name": "cifar100"}, {}, ("clip80+1", True, "squash_crop, bicubic")),
        ({"templates": ["a {}."]}, {"classification": "clip"}, ("the data set's 1", False, "crop, bicubic")),
        ({"templates": ["a {}."]}, {}, ("clip80+1", True, "squash_crop, bicubic")),
        ({}, {"templates": "plain", "interpolation": "tf_bilinear"}, ("plain", True, "squash_crop, tf_bilinear")),
    ],
)
def test_protocols_by_name(oracle, flat, data, config, want):
    protocol = ZeroShotClassification("x-zs", two(flat, **data), EvalConfig(**config)).protocol(oracle)
    assert (protocol["templates"], protocol["canonicalize"], protocol["resize"]) == want


def test_clips_protocol_takes_names_and_templates_as_they_are(oracle, flat):
    heard = []

    class Listening(type(oracle.tokenizer)):
        def __call__(self, texts):
            heard.extend(texts)
            return super().__call__(texts)

    oracle.tokenizer = Listening()
    data = two(flat, templates=["An {}!", "{}"])
    ZeroShotClassification("x-zs", data, EvalConfig(classification="clip"))(oracle)
    assert heard == ["An W1, something!", "W1, something", "An w2!", "w2"]
    heard.clear()
    ZeroShotClassification("x-zs", data, EvalConfig(templates="plain"))(oracle)
    assert heard == ["w1", "w2"]


def test_most_confused_classes_are_in_the_details(oracle, flat):
    names = ["w1", "w2", "w3"]
    data = ClassificationSet("x", "test", names, [flat(1), flat(2), flat(2), flat(3)], [0, 0, 0, 2])
    record = ZeroShotClassification("x-zs", data, EvalConfig())(oracle).record
    assert record.metrics == {"acc1": 0.5, "mean_per_class_recall": pytest.approx((1 / 3 + 1) / 2)}
    assert record.details["most_confused"] == [
        {"truth": "w1", "taken_for": "w2", "count": 2, "share": pytest.approx(2 / 3)}
    ]


def test_captions_can_be_cut(root, oracle):
    from silc.eval.layouts.captions import read_retrieval

    data = read_retrieval(root / "retrieval" / "pairs")
    kept = Retrieval("x", data, EvalConfig(num_pictures=0)).protocol(oracle)
    cut = Retrieval("x", data, EvalConfig(max_captions=1, classification="clip")).protocol(oracle)
    assert (kept["num_texts"], kept["max_captions"], kept["resize"]) == (18, "all", "squash, bicubic")
    assert (cut["num_texts"], cut["max_captions"], cut["resize"]) == (12, 1, "crop, bicubic")


# --- WebDataset


def shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def wds(tmp_path, flat):
    folder = tmp_path / "classification" / "vtab"
    shard(folder / "test/0.tar", {"a.png": png(flat(1)), "a.cls": b"0", "b.png": png(flat(2)), "b.cls": b"1\n"})
    shard(folder / "test/1.tar", {"a.webp": png(flat(2)), "a.cls": b"1"})  # the same key in another shard
    (folder / "test/nshards.txt").write_text("2")
    (folder / "classnames.txt").write_text("w1\nw2\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n")
    return folder


def test_clip_benchmarks_classification_shards(wds, oracle):
    data = read_wds_classification(wds)
    assert (list(data.labels), data.templates, data.classes) == ([0, 1, 1], ["a photo of {}"], ["w1", "w2"])
    assert [path.name for path in data.files] == ["0.tar", "1.tar"]
    assert ZeroShotClassification("x", data, EvalConfig(classification="clip"))(oracle).record.metrics["acc1"] == 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classnames.txt", b"w1\n", "1/a has the label '1'|0/b has the label '1'"),
        ("test/nshards.txt", b"many", "says 'many'; it must hold a number"),
        ("test/nshards.txt", b"9" * 5000, "; it must hold a number"),
        ("test/nshards.txt", b"3", r"cannot read the shard .*2\.tar"),
        ("test/1.tar", b"no tar", r"cannot read the shard .*1\.tar"),
        ("test/nshards.txt", b"1", r"nshards\.txt says 1, but .*1\.tar exists too"),
    ],
)
def test_broken_shards(wds, file, content, message):
    (wds / file).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_wds_classification(wds)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x"}, r"1/a has the label ''"),
        ({"a.cls": b"1"}, r"1/a has no image .*, only cls"),
        ({"a.png": b"x", "a.cls": b"1", "b/c.png": b"x"}, r"1/b/c has the label ''"),
        ({"a.v1.png": b"x", "a.v1.cls": b"9"}, r"1/a\.v1 has the label '9'"),
        ({"a.png": b"x", "a.cls": b"\xff"}, "cannot read the text of 1/a"),
        ({"../a.png": b"x", "a.cls": b"1"}, r"\.\./a\.png is a link.*unsafe name; pack the shard again"),
        ({"a.png": b"x", "a.cls": b"1", "./a.png": b"x"}, "holds ./a twice"),
    ],
)
def test_no_sample_of_a_shard_is_left_out(wds, members, message):
    shard(wds / "test/1.tar", members)
    with pytest.raises(BadInput, match=message):
        read_wds_classification(wds)


def test_evaluation_reads_shards_by_the_rules_of_training(wds, flat):
    """Dots in keys and folders, disorder, upper case, a mark, hidden files, masks, two archives in one file."""
    image = png(flat(1))
    names = ["v1.0/a.cls", "b.x.PNG", "v1.0/a.png", "b.x.cls", "._b.x.PNG", "b.x.seg.png", "c.gif", "c.cls"]
    texts = {"v1.0/a.cls": b"0", "b.x.cls": "\ufeff1\r\n".encode(), "c.cls": b" 1 "}
    shard(wds / "test/0.tar", {name: texts.get(name, image) for name in names[:6]})
    shard(wds / "test/more.tar", {name: texts.get(name, image) for name in names[6:]})
    whole = wds / "test/0.tar"
    whole.write_bytes(whole.read_bytes() + (wds / "test/more.tar").read_bytes())
    (wds / "test/nshards.txt").write_bytes(b"\xef\xbb\xbf2\r\n")
    data = read_wds_classification(wds)
    assert list(data.labels) == [0, 1, 1, 1]
    assert data.images[1].getpixel((0, 0)) == flat(1).getpixel((0, 0))


def test_clip_benchmarks_retrieval_shards(tmp_path, flat):
    folder = tmp_path / "retrieval" / "flickr"
    shard(
        folder / "test/0.tar", {"0.png": png(flat(1)), "0.txt": b"one\n two \n\n", "1.png": png(flat(2)), "1.txt": b"x"}
    )
    (folder / "test/nshards.txt").write_text("1")
    data = read_wds_retrieval(folder)
    assert list(data.captions) == [["one", "two"], ["x"]]
    assert data.images[1].getpixel((0, 0)) == flat(2).getpixel((0, 0))

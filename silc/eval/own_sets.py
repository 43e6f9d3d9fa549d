"""How one's own evaluation sets lie under a root: what `silc eval --list` and docs/guides/own-sets.md show.

A line is a file and what is in it; tests make every one of these trees and evaluate it. The readers are in
`layouts/`.
"""

from __future__ import annotations

from collections.abc import Mapping

TREES: Mapping[str, str] = {
    "classification: flowers-zs, and flowers-fewshot where there is train/": """\
classification/flowers/
  classes.txt          a name a line: rose, tulip
  test/rose/1.jpg      a folder a class, called as the class is, or numbered in the order of classes.txt
  test/tulip/2.jpg
  train/rose/3.jpg     for few-shot at least as many of each class as --shots says, for probes at least 2
  train/tulip/4.jpg""",
    "retrieval: products-retrieval": """\
retrieval/products/
  captions.jsonl       an image a line: {"image": "images/1.jpg", "captions": ["a red shoe", "a shoe"]}
  images/1.jpg
  images/2.jpg""",
    "retrieval, the table as CSV (or .tsv, .json, .txt)": """\
retrieval/posters/
  captions.csv         a first line image,caption and then a caption a line: images/1.jpg,a red poster
  images/1.jpg
  images/2.jpg""",
    "segmentation: streets-zs-seg": """\
segmentation/streets/
  classes.txt          a name a line, the first is label 0; called background it is not scored
  images/1.jpg
  images/2.png
  labels/1.png         called as its image and of its width and height; 8 or 16 bits, a label a pixel;
  labels/2.png         255 (in 16 bits with more than 255 classes: 65535) is not scored
  train/images/3.jpg   only for silc probe: what it learns from
  train/labels/3.png""",
    "classification in shards, as CLIP_benchmark's WebDataset": """\
classification/birds/
  classnames.txt       a name a line, the first is class 0
  test/nshards.txt     the number of shards
  test/0.tar           1.jpg with 1.cls, the number of its class, and so on""",
    "retrieval in shards": """\
retrieval/news/
  test/nshards.txt     the number of shards
  test/0.tar           1.jpg with 1.txt, a caption a line, and so on""",
}
"""What it is for, and the tree under the root."""


def shown() -> str:
    """All trees, indented below what they are for."""
    blocks = [f"{title}\n" + "\n".join(f"    {line}" for line in tree.splitlines()) for title, tree in TREES.items()]
    return "Your own sets under the root, in folders of any name:\n\n" + "\n\n".join(blocks)

"""`silc data`: commands that work on data before training, one module each."""

from __future__ import annotations

import importlib

from silc.errors import BadInput
from silc.settings import nearest
from silc.terminal import say

COMMANDS = {
    "check": ("data_check", "SHARDS", "counts, broken samples, captions, duplicates, pictures"),
    "make": ("data_make", "TABLE", "shards from a table of captions (csv, tsv, jsonl, parquet), or from a folder"),
    "score": ("data_score", "SHARDS", "CLIP scores, embeddings, words, language and hashes, one parquet per shard"),
    "stats": ("data_stats", "SCORES", "a page: distributions, pictures at each decile, words, copies"),
    "select": ("data_select", "SCORES", "the samples to keep, by their scores: all of DataComp's filters"),
    "prepare": ("data_prepare", "NAME", "label maps for scoring, decoded from raw releases"),
    "generate": ("data_generate", "OUT", "sets of a generated world: label maps, captions, boxes, questions"),
}


def main(args: list[str]) -> int:
    """Run one of COMMANDS."""
    if not args or args[0] in ("-h", "--help"):
        say("\n".join(f"    silc data {name} {takes:<10}  {what}" for name, (_, takes, what) in COMMANDS.items()))
        return 0
    if args[0] not in COMMANDS:
        known = ", ".join(f"`silc data {name}`" for name in COMMANDS)
        raise BadInput(f"unknown command 'data {args[0]}'{nearest(args[0], COMMANDS)}; there are {known}")
    result: int = importlib.import_module(f"silc.commands.{COMMANDS[args[0]][0]}").main(args[1:])
    return result

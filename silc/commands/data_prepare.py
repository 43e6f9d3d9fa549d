"""`silc data prepare`: decode label maps of raw releases for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from silc import places
from silc.commands import flags
from silc.data.index_cache import expanded
from silc.errors import BadInput
from silc.settings import Settings, one_of
from silc.terminal import announce, complain, say

SPREAD = 1
"""Images by which published counts of one set differ: Pascal Context has 5,104 or 5,105."""


@dataclass(frozen=True)
class PrepareCommand(Settings):
    """Decode the label maps of a release that `silc eval` cannot score as it is unpacked. Files that exist are kept,
    and a new folder appears only when it is complete.
    """

    name: tyro.conf.Positional[str]
    """ade847, pc459, pc59 (and PC-60), coco-object or coco-stuff."""
    root: str
    """The folder that the release was unpacked in: with ADE20K_2021_17_01, VOCdevkit or coco_stuff164k."""
    out: str = ""
    """The folder for data, --root of `silc eval`. Empty: the release's folder, where photographs are not copied."""
    train: bool = False
    """Also the training part, which probes learn from."""


def main(args: list[str]) -> int:
    """Decode a release."""
    command = flags.read(PrepareCommand, args, "silc data prepare")
    from silc.eval.releases import RELEASES, prepare

    release = one_of(RELEASES, command.name, "set")
    if command.train and len(release.parts) == 1:
        raise BadInput(f"{command.name} has no training part that is prepared; leave out --train")
    root = expanded(command.root)
    if not root.is_dir():
        raise BadInput(f"--root {command.root} is no folder; name the folder into which the release was unpacked")
    out = places.folder(command.out) if command.out else places.folder(root, flag="--root")
    announce(f"data prepare: {release.what}, of {root} into {out}")
    files = release.plan(root, out, release.parts if command.train else release.parts[:1])
    scored = sum(file.labels == release.parts[0] for file in files)
    say(f"images that are scored: {scored:,}; the published set has {release.images:,}; files: {len(files):,}")
    if abs(scored - release.images) > SPREAD:
        complain(
            f"{root} does not have the images of the published set, so scores on it are not comparable with published "
            "ones"
        )
    done = prepare(files, show=True)
    kept = f", {done.kept:,} existed and are kept" if done.kept else ""
    say(f"prepared: {done.made:,} files{kept}; `silc eval --list --root {out}` lists the tasks on them")
    return 0

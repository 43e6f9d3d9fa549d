"""Image files and folders that a person names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from silc.commands.image_files import images_of


def test_images_in_folders_are_found_whatever_their_suffix_and_hidden_ones_are_not(tmp_path: Path) -> None:
    shown = ["a.JPG", "b/c.Webp", "b/d.gif", "b/e.jfif", "f.tif", "g.heic"]
    hidden = ["._a.JPG", ".cache/x.jpg", "__MACOSX/y.jpg", "b/.z.png", "notes.txt", "png"]
    for name in shown + hidden:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"II*\0" if name == "f.tif" else b"")
    for name in shown[:4]:
        Image.new("RGB", (4, 3)).save(tmp_path / name, "PNG")
    images = images_of([tmp_path, tmp_path / "b", tmp_path / "a.JPG"], "test")
    assert [str(file.relative_to(tmp_path)) for file in images.files] == sorted(shown)
    assert sum(len(batch) for batch in images.batches(3)) == 4
    assert [Path(each["file"]).name for each in images.unreadable] == ["f.tif", "g.heic"]
    assert "but a TIFF image; convert it" in images.unreadable[0]["why"]

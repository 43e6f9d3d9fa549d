#!/usr/bin/env bash
# An export scored by CLIP_benchmark and by silc, on the same images: the numbers must be equal, and above chance.
#
#   scripts/check_export.sh EXPORT SET [OUT]
#
# EXPORT   a directory of `silc export` with the format open_clip
# SET      a folder with test/<class>/* and classes.txt. Its images must be square, so that squashing them (as silc
#          trains) and cutting their centre (as silc's `clip` protocol does) are the same
# OUT      where the data set in CLIP_benchmark's layout and both results go (out/check_export)
#
# $CLIP_BENCHMARK   the clip_benchmark of an environment of its own, since release 1.6.2 stops on numpy >= 2.4:
#                     uv venv bench --python 3.11
#                     uv pip install --python bench/bin/python clip-benchmark requests webdataset 'numpy<2.4' \
#                       'open_clip_torch>=3.3,<5' 'transformers>=5.3'
#                     CLIP_BENCHMARK=bench/bin/clip_benchmark scripts/check_export.sh out/export data/cifar10
# $SILC, $PYTHON    silc and its python, where they are not on the path
set -euo pipefail
usage="usage: scripts/check_export.sh EXPORT SET [OUT]"
export_dir=$(realpath "${1:?$usage}")
images=${2:?$usage}
out=${3:-out/check_export}
read -ra silc <<<"${SILC:-silc}"
set_dir=$out/data/classification/images_wds
mkdir -p "$set_dir/test"

# CLIP_benchmark's WebDataset layout.
"${PYTHON:-python}" - "$images" "$set_dir" <<'PYTHON'
import io, sys, tarfile
from pathlib import Path

source, out = map(Path, sys.argv[1:])
classes = sorted(folder for folder in (source / "test").iterdir() if folder.is_dir())
(out / "classnames.txt").write_text((source / "classes.txt").read_text())
(out / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na blurry photo of a {c}.\n")
(out / "test" / "nshards.txt").write_text("1\n")
with tarfile.open(out / "test" / "0.tar", "w") as tar:
    files = [(label, file) for label, folder in enumerate(classes) for file in sorted(folder.iterdir())]
    for number, (label, file) in enumerate(files):
        for suffix, data in ((file.suffix, file.read_bytes()), (".cls", str(label).encode())):
            member = tarfile.TarInfo(f"s{number:05d}{suffix}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
PYTHON

"${silc[@]}" eval "$export_dir" --root "$out/data" --tasks images_wds-zs --classification clip \
  --out "$out/silc.json" --cache off
# In float32: autocast would round the features. Without a network: an export needs none.
HF_HUB_OFFLINE=1 "${CLIP_BENCHMARK:-clip_benchmark}" eval --model "local-dir:$export_dir" --pretrained export \
  --dataset wds/images_wds --dataset_root "$set_dir" --task zeroshot_classification --no_amp --num_workers 0 \
  --output "$out/clip_benchmark.json"

"${PYTHON:-python}" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path

out = Path(sys.argv[1])
record = json.loads((out / "silc.json").read_text())[0]
ours, chance = record["metrics"], record["chance"]
theirs = json.loads((out / "clip_benchmark.json").read_text())["metrics"]
differing = 0
for name in ("acc1", "acc5", "mean_per_class_recall"):
    same = abs(ours[name] - theirs[name]) < 1e-6
    differing += not same
    print(f"{name:<24}silc {ours[name]:.4f}   clip_benchmark {theirs[name]:.4f}   {'equal' if same else 'DIFFERENT'}")
answers = ours["acc1"] > 2 * chance["acc1"]
print(f"chance {chance['acc1']:.4f}: {'the model answers' if answers else 'TOO NEAR, two models of any kind agree so'}")
sys.exit(bool(differing) or not answers)
PYTHON

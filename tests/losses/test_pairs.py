"""The loss of a matrix of scores against the contrastive loss, and over ranks, against TCL's own two processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from silc.distributed import World
from silc.losses.contrastive import softmax_loss
from silc.losses.pairs import gathered, matching_loss


def test_of_products_it_is_the_contrastive_loss() -> None:
    x, y = F.normalize(torch.randn(2, 6, 5), dim=-1)
    scale = torch.tensor([7.0])
    torch.testing.assert_close(matching_loss(scale * x @ y.T, World()), softmax_loss(x, y, scale, World()))


def test_low_precision_is_not_summed_in() -> None:
    scores = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert matching_loss(scores, World()).dtype == torch.float32
    assert matching_loss(scores.bfloat16(), World()).dtype == torch.float32
    assert matching_loss(scores.double(), World()).dtype == torch.float64


def features(silc_data: Path, prefix: str) -> tuple[np.lib.npyio.NpzFile, torch.Tensor, torch.Tensor]:
    """TCL's fixture of two processes of 3 pairs: all images [6, ...] and all texts [6, D]."""
    file = np.load(silc_data / "oracles/tcl/losses_two_ranks.npz", allow_pickle=False)
    return file, *(
        torch.from_numpy(file[f"{prefix}{name}"]).flatten(0, 1).requires_grad_() for name in ("image", "text")
    )


def scores_of(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Of each image's feature of each text [B, N, D] with that text [N, D], at TCL's first temperature."""
    return torch.einsum("bnd,nd->bn", F.normalize(image, dim=-1), F.normalize(text, dim=-1)) / 0.07


def test_two_ranks_are_tcls_two_processes_and_right_where_those_are_not(silc_data: Path, tmp_path: Path) -> None:
    """InfoNCE is theirs, losses and gradients before they are averaged. For a text of one process theirs reads, of the
    images of the other, what was pooled for another text: ours is what one process makes of the global batch."""
    mp.start_processes(_rank, args=(str(silc_data), str(tmp_path)), nprocs=2, start_method="forkserver")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    theirs, image, text = features(silc_data, "ext_")
    for rank in range(2):
        for name, ours in found[rank]["infonce"].items():
            expected = torch.from_numpy(np.asarray(theirs[f"rank{rank}/infonce/{name}"]))
            torch.testing.assert_close(ours.reshape(expected.shape), expected, atol=1e-5, rtol=1e-5)
    loss = 2 * matching_loss(scores_of(image, text), World())
    loss.backward()
    assert sum(one["ext"]["loss"].item() for one in found) == pytest.approx(loss.item(), rel=1e-5)
    for name, x in (("grad_image", image), ("grad_text", text)):
        torch.testing.assert_close(torch.cat([one["ext"][name] for one in found]), x.grad, atol=1e-5, rtol=1e-5)

    x, y, own = F.normalize(image, dim=-1), F.normalize(text, dim=-1), torch.arange(6)
    with_fault = torch.stack([(x[i, 3 * (i // 3) + b % 3] @ y[b]) / 0.07 for b in range(6) for i in range(6)]).view(
        6, 6
    )
    each = [F.cross_entropy(scores, own, reduction="none") for scores in (scores_of(image, text), with_fault)]
    for rank in range(2):
        fault = torch.stack(each).mean(dim=0)[3 * rank : 3 * rank + 3].mean().item()
        assert fault == pytest.approx(float(theirs[f"rank{rank}/ext/loss"]), abs=1e-5)


def _rank(rank: int, silc_data: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    world, found = World(rank, 2), {}
    for kind, prefix in (("infonce", ""), ("ext", "ext_")):
        _, *everything = features(Path(silc_data), prefix)
        image, text = (x[3 * rank : 3 * rank + 3].detach().requires_grad_() for x in everything)
        if kind == "infonce":
            x, y = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
            loss = softmax_loss(x, y, torch.tensor([1 / 0.07]), world)
        else:
            loss = matching_loss(scores_of(image, gathered(text, world)), world)
        loss.backward()
        found[kind] = {"loss": loss.detach(), "grad_image": image.grad, "grad_text": text.grad}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

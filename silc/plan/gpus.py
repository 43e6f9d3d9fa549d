"""GPUs by name, with the vendors' figures.

| name      | figures from                                                                                     |
| --------- | ------------------------------------------------------------------------------------------------ |
| a100-*    | NVIDIA A100 datasheet (SXM); DGX A100: 8 cards, 8 adapters of 200 Gb/s                            |
| h100      | NVIDIA H100 datasheet (SXM, 1,979 TFLOPS with sparsity); DGX H100: 8 cards, 8 adapters of 400 Gb/s |
| h200      | NVIDIA H200 datasheet (SXM); DGX H200, as DGX H100                                                |
| b200      | NVIDIA HGX B200 at 1,000 W; DGX B200 user guide: 8 cards of 180 GB, 8 adapters of 400 Gb/s        |
| l40s      | NVIDIA L40S datasheet (362 without sparsity; PCIe 4.0 x16, 64 GB/s both ways together)            |
| rtx4090   | NVIDIA Ada architecture whitepaper, appendix (bf16 with float32 sums, without sparsity)            |

The last two have no standard network: 100 Gb/s per node is our assumption; replace it with your own figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from silc.settings import one_of


@dataclass(frozen=True)
class Gpu:
    """One GPU (card), and its connections to others."""

    name: str
    memory: float
    """Gigabytes (10^9), as marketed. A card has a little more, which CUDA, NCCL and gaps between tensors use up."""
    tflops: float
    """Peak TFLOPS of dense bf16 matrix products, accumulated in float32."""
    link: float
    """GB/s from one card to the others of its node (one direction)."""
    network: float
    """GB/s from one node to the others, over all adapters together (one direction)."""
    per_node: int = 8
    """Cards per node."""

    def joined(self, network: float | None, per_node: int | None) -> Gpu:
        """The same card with another network (GB/s) or other nodes (cards per node); None keeps the default."""
        return replace(self, network=network or self.network, per_node=per_node or self.per_node)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 40, 312, 300, 200),
        Gpu("a100-80", 80, 312, 300, 200),
        Gpu("h100", 80, 989, 450, 400),
        Gpu("h200", 141, 989, 450, 400),
        Gpu("b200", 180, 2250, 900, 400),
        Gpu("l40s", 48, 362, 32, 12.5),
        Gpu("rtx4090", 24, 165, 32, 12.5),
    )
}


def get(name: str) -> Gpu:
    """The card called `name`.

    Raises:
        BadInput: the name is not in the table; the message names the nearest.
    """
    return one_of(GPUS, name, "GPU")

"""Cards by name: what their vendor says of them.

| name      | figures from                                                                                     |
| --------- | ------------------------------------------------------------------------------------------------ |
| a100-*    | NVIDIA A100 datasheet (SXM); DGX A100: 8 cards, 8 adapters of 200 Gb/s                            |
| h100      | NVIDIA H100 datasheet (SXM, 1,979 TFLOPS with sparsity); DGX H100: 8 cards, 8 adapters of 400 Gb/s |
| h200      | NVIDIA H200 datasheet (SXM); DGX H200, as DGX H100                                                |
| b200      | NVIDIA HGX B200 at 1,000 W; DGX B200 user guide: 8 cards of 180 GB, 8 adapters of 400 Gb/s        |
| l40s      | NVIDIA L40S datasheet (362 without sparsity; PCIe 4.0 x16, 64 GB/s both ways together)            |
| rtx4090   | NVIDIA Ada architecture whitepaper, appendix (bf16 with float32 sums, without sparsity)            |

No network comes with the last two: 100 Gb/s a node is our assumption, to be replaced by yours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from silc.settings import one_of


@dataclass(frozen=True)
class Gpu:
    """One card, and what joins it to others."""

    name: str
    memory: float
    """Gigabytes (10^9), as marketed. Cards show a little more; CUDA, NCCL and gaps between tensors take that."""
    tflops: float
    """Peak of dense bf16 matrix products summed in float32."""
    link: float
    """GB/s a card sends to the others of its node (one direction)."""
    network: float
    """GB/s a node sends to the others, all adapters together (one direction)."""
    per_node: int = 8
    """Cards in a node."""

    def joined(self, network: float | None, per_node: int | None) -> Gpu:
        """The same card in other nodes; None leaves what is usual."""
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
        BadInput: it is not in the table; names the nearest.
    """
    return one_of(GPUS, name, "GPU")

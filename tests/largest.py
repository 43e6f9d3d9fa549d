"""How large the tensors are that some code makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made meanwhile; a view has those of what it looks at."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor) and one.layout == torch.strided]
        self.numbers = max([self.numbers, *(one.untyped_storage().nbytes() // one.element_size() for one in made)])
        return out

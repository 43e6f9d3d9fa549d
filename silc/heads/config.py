"""What the settings of several heads leave unread. Imports no torch."""

from __future__ import annotations

from silc.given import PAIRS, Idle

TOWERS_STAY = (
    Idle(
        "train.passes train.micro_batch train.held_out train.optim.layer_decay train.optim.freeze train.optim.lora",
        lambda _: True,
        "the model below stays as it is",
    ),
    Idle("train.optim.timescale train.optim.cooldown", lambda c: c.train.optim.schedule == "cosine", "it is cosine"),
    Idle("eval.*", lambda c: c.train.eval_every == "never", "train.eval_every is never", but="eval.root"),
)
"""Of a head on frozen towers."""
ON_PAIRS = (
    *PAIRS,
    Idle("data.crops.num_* data.crops.local_*", lambda _: True, "the head sees one global view of an image"),
    Idle("data.tokenizer data.vocab_size", lambda _: True, "the model below has a tokenizer"),
)
"""Of a head that learns from image-text pairs."""

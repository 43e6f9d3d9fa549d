"""Lists of settings that a head ignores, each for several heads. Imports no torch."""

from __future__ import annotations

from silc.given import ALONG, PAIRS, TRAINING, Idle

TOWERS_STAY = (
    Idle(
        "train.optim.layer_decay train.optim.freeze train.optim.lora",
        lambda _: True,
        "the model under the head is not trained",
    ),
    Idle("train.passes train.micro_batch", lambda _: True, "a head takes the whole batch at once"),
    Idle("train.held_out", lambda _: True, "a head learns from all pairs"),
    Idle("train.optim.decay", lambda _: True, "only the matrices of a head decay"),
    *TRAINING,
    ALONG,
)
"""Settings that a head on frozen towers does not use."""
ON_PAIRS = (
    *PAIRS,
    Idle("data.crops.num_* data.crops.local_*", lambda _: True, "the head sees one global view of an image"),
    Idle("data.tokenizer data.vocab_size", lambda _: True, "the model under the head has a tokenizer"),
)
"""Settings that a head on image-text pairs does not use."""

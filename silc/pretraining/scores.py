"""How a pretraining run is scored while it trains: by the evaluators asked for, and on its held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from silc.distributed import World
from silc.eval import held_out, suite
from silc.eval.progress import Unscored
from silc.loading import encoders
from silc.pretraining.build import untrained
from silc.training.log import history
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from silc.config import Config
    from silc.data.tokenizer import BPETokenizer
    from silc.objective import SilcObjective
    from silc.records import Evaluator
    from silc.training.preemption import Interruptible


@dataclass
class PretrainingScores:
    """The `Scores` (training/protocols.py) of an objective."""

    config: Config
    objective: SilcObjective
    tokenizer: BPETokenizer
    asked_for: Sequence[Evaluator]
    held_out: Sequence[Evaluator]
    """Retrieval among the held-out pairs, if there are any."""
    world: Interruptible
    tell: Callable[[str], None]
    unscored: Unscored = field(init=False)

    def __post_init__(self) -> None:
        # A data set that becomes unreadable during the run loses its scores, and does not stop the run.
        self.unscored = Unscored(self.tell)

    def during_training(self) -> Mapping[str, float]:
        """Scores of the tasks asked for."""
        return self._scored(self.asked_for, self.config.eval.weights)

    def before_and_after(self) -> Mapping[str, float]:
        """Scores of student and teacher, on the held-out pairs."""
        return self._scored(self.held_out, "both") if self.held_out else {}

    def summary(self, out: Path) -> list[str]:
        """Lines for the user: what could not be scored, the scores of the held-out pairs, and what may be done next."""
        told = self.unscored.summary(out)
        if self.held_out and held_out.TASK not in self.unscored.tasks:
            num_pairs = len(self.held_out[0].sets[0].images)
            told.append(held_out.report(history(out), num_pairs))
        return [*told, f"done: {out}   next: silc eval {out} --root DATA"]

    def _scored(
        self, evaluators: Sequence[Evaluator], weights: Literal["student", "teacher", "both"]
    ) -> Mapping[str, float]:
        of_text = self.tokenizer.vocab_size, self.tokenizer.eos_id
        model = unsharded(self.objective, lambda: untrained(self.config, *of_text, World()))
        model.eval()
        models = encoders(model.student, model.teacher, self.tokenizer, model.preprocess, weights=weights)
        results = suite.run(models, evaluators, world=self.world, failed=self.unscored)
        self.world.collect(None)  # the `collect` to come for a rank that calls `heed` in the last batch
        model.train()
        return suite.scalars(results)

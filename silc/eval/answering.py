"""Visual question answering by a `Writer`: VQA accuracy, exact match, and accuracy by type of question.

The protocol is our own: greedy decoding, the whole image squashed to the model's square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from silc.eval.bootstrap import Ratios, resampled
from silc.eval.captioning import writer_of
from silc.eval.datasets import QuestionSet
from silc.eval.embed import dealt, shared
from silc.eval.pictures import evenly_spaced, small
from silc.eval.question_only import question_only
from silc.eval.vqa_accuracy import ANNOTATORS, commonest, exact_match, vqa_accuracy
from silc.eval.whole_images import OnSet
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.encoder import DualEncoder, Writer

QUESTIONS = "vqa"
"""Prefix of the task, if the decoder has learnt no prefix with the data set's own name."""
SHOWN = 50
"""Number of answers that the record lists beside the truth."""


class QuestionAnswering(OnSet[QuestionSet]):
    """Scores of a model's answers to the questions of one data set."""

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return (self.config.num_pictures if self.config.photographs else 0), True

    @property
    def annotated(self) -> bool:
        """Whether every question has more than `ANNOTATORS` answers, so that VQA accuracy can reach 1."""
        return min(map(len, self.data.answers)) > ANNOTATORS

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "protocol": "silc",
            "num_images": len(self.data.images),
            "num_questions": len(self.data),
            "accuracy": "VQA's, mean over annotators left out"
            if self.annotated
            else "exact match with the commonest answer",
            "prefix": self._prefix(model),
            "decoding": "greedy",
            "exif_orientation": self.config.exif_orientation,
            "chance": "without images: the commonest answer to questions alike about other images, by the best of: all "
            "questions, their type, first two words, the whole question",
            **getattr(model, "record", {}),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model.

        Raises:
            BadInput: the model is no `Writer`, or has not learnt to answer questions.
        """
        prefix = self._prefix(model)
        writer = writer_of(model, prefix)
        written: dict[int, str] = {}
        for theirs in shared(lambda: self._share(writer, prefix), self.world):
            written |= theirs
        answers = [written[index] for index in range(len(self.data))]
        scores = {name: torch.tensor(each) for name, each in self._scored(answers).items()}
        ratios = {name: self._by_image(each) for name, each in scores.items()}
        without = max(
            (self._scored(told) for told in question_only(self.data).values()), key=lambda one: sum(one["accuracy"])
        )
        record = Record(
            dataset=self.data.name,
            task="question_answering",
            metrics={name: each.mean().item() for name, each in scores.items()},
            chance={name: sum(each) / len(each) for name, each in without.items()},
            protocol=self.protocol(model),
            model=model.name,
            details={**self._by_type(scores["accuracy"]), "answers": self._beside(answers)},
        )
        return Evaluation(record, self._pictures(answers), resampled(ratios))

    def _prefix(self, model: DualEncoder) -> str:
        """The decoder's prefix for the task: the data set's name if the decoder has learnt it, else `QUESTIONS`."""
        return self.data.name if self.data.name in getattr(model, "prefixes", ()) else QUESTIONS

    def _share(self, writer: Writer, prefix: str) -> dict[int, str]:
        """Answers to this rank's questions, by question index."""
        mine: dict[int, str] = {}
        for batch in dealt(len(self.data), self.config.batch_size, self.world):
            images = [self.data.images[self.data.about[index]] for index in batch]
            asked = [self.data.questions[index] for index in batch]
            mine |= zip(batch, writer.write(images, prefix, asked), strict=True)
            self.progress(batch.stop, len(self.data))
        return mine

    def _scored(self, answers: Sequence[str]) -> dict[str, list[float]]:
        """Each answer's score [N], by metric."""
        pairs = list(zip(answers, self.data.answers, strict=True))
        exact = [float(exact_match(answer, truth)) for answer, truth in pairs]
        if not self.annotated:
            return {"accuracy": exact}
        return {"accuracy": [vqa_accuracy(answer, truth) for answer, truth in pairs], "exact_match": exact}

    def _by_image(self, scores: torch.Tensor) -> Ratios:
        """The scores summed per image, because the bootstrap draws all questions of an image together."""
        about, images = torch.tensor(list(self.data.about)), len(self.data.images)
        sums = torch.zeros(images, dtype=torch.float64).index_add(0, about, scores.double())
        return Ratios.of_images(sums, torch.bincount(about, minlength=images).double())

    def _by_type(self, scores: torch.Tensor) -> dict[str, list[dict[str, Any]]]:
        """A table for each key of `types`: accuracy and number of questions of each type, lowest accuracy first."""
        tables = dict[str, list[dict[str, Any]]]()
        for kind, names in self.data.types.items():
            rows = []
            for name in sorted(set(names)):
                own = scores[torch.tensor([one == name for one in names])]
                rows.append({"class": name, "questions": len(own), "accuracy": own.mean().item()})
            tables[f"{kind}_accuracy"] = sorted(rows, key=lambda row: float(row["accuracy"]))
        return tables

    def _beside(self, answers: Sequence[str]) -> list[dict[str, str]]:
        """At most `SHOWN` answers, each with its question and the truth."""
        return [
            {
                "question": self.data.questions[index],
                "truth": commonest(self.data.answers[index]),
                "answer": answers[index],
            }
            for index in evenly_spaced(len(answers), min(SHOWN, len(answers)))
        ]

    def _pictures(self, answers: Sequence[str]) -> list[Picture]:
        """Pictures of evenly spaced questions; success does not decide which are shown."""
        drawn = []
        for index in evenly_spaced(len(answers), self.drawn[0]):
            said = f"“{self.data.questions[index]}” {answers[index]}; truth: {commonest(self.data.answers[index])}"
            drawn.append(Picture(self.name, said, small(self.data.images[self.data.about[index]])))
        return drawn

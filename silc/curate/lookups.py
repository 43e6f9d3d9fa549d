"""Data for filters that the user provides: lists of words, embeddings of targets, centroids."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from silc.curate.clusters import centroids_of
from silc.data.index_cache import expanded
from silc.errors import BadInput
from silc.eval.files import lines_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from silc.curate.scores import Scores


@dataclass
class Lookups:
    """The files that terms and flags name."""

    scores: Scores
    given: str = ""
    """The centroids: a file, or the number to compute from the scores' embeddings; empty: the default number."""
    seed: int = 0
    embed: Callable[[Path, str], np.ndarray] | None = None
    """Function (folder, column) -> embeddings [n, D] of the folder's images by the model of the column."""
    _centroids: dict[str, np.ndarray] = field(default_factory=dict)

    def words(self, name: str) -> list[str]:
        """The non-empty lines of a file.

        Raises:
            BadInput: there is no such file, or the file is empty.
        """
        path = expanded(name)
        if not path.is_file():
            raise BadInput(f"the list of words {name} does not exist; give a text file with one entry per line")
        return lines_of(path, "entry")

    def targets(self, name: str, column: str) -> np.ndarray:
        """Target embeddings [n, D], from an array file or from the images in a folder.

        Raises:
            BadInput: there is no such file or folder, or the embeddings differ in width from the column's.
        """
        path = expanded(name)
        if path.is_dir():
            if self.embed is None:
                raise BadInput(
                    f"image_near {name}: a folder of images needs the model that made the scores; give an .npy instead"
                )
            return self._fitting(self.embed(path, column), name, column)
        return self._fitting(array_in(path, "target_embeddings"), name, column)

    def centroids(self, column: str) -> np.ndarray:
        """Centroids [K, D], from the given file or computed from the column's embeddings.

        Raises:
            BadInput: the file cannot be read, or its width differs from the column's.
        """
        if column not in self._centroids:
            if self.given and not self.given.isdecimal():
                found = self._fitting(array_in(expanded(self.given), "pool_centroids"), self.given, column)
            else:
                found = centroids_of(self.scores, column, int(self.given or 0), seed=self.seed)
            self._centroids[column] = found
        return self._centroids[column]

    def _fitting(self, found: np.ndarray, name: str, column: str) -> np.ndarray:
        sql = self.scores.column(column)
        width = self.scores.one(f"SELECT len({sql}) FROM scored WHERE {sql} IS NOT NULL LIMIT 1")
        if width is None:
            raise BadInput(f"no sample has an embedding in the column {column}; score with a model")
        if found.ndim != 2 or found.shape[1] != width[0] or not len(found):
            raise BadInput(
                f"{name} holds an array {list(found.shape)}; needed [n, {width[0]}], embeddings by the model of "
                f"{column}"
            )
        return found


def array_in(path: Path, name: str) -> np.ndarray:
    """The array of an .npy file, or of an .npz file: the array called `name`, or its only array.

    Raises:
        BadInput: there is no such array, or the file cannot be read.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; give an .npy or .npz with one embedding per row") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path} cannot be read: {error}; give an .npy or .npz with one embedding per row") from error
    if isinstance(found, np.ndarray):
        return found
    names = list(found)
    if name not in names and len(names) != 1:
        raise BadInput(f"{path} holds the arrays {', '.join(names)}; needed one, or one named {name}")
    return np.asarray(found[name if name in names else names[0]])

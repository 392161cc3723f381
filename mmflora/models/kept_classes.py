"""Weights of the classes that a model has in common with its base."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeptClasses:
    """Which classes of a base's file stay classes of the model.

    Attributes:
        count: How many classes the file has.
        rows: For each class of the model its place among those of the file;
            ``None`` for a new class.
    """

    count: int
    rows: Sequence[int | None]

    def places(
        self, key: str, theirs: Sequence[int], ours: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Return which rows of a weight stay, as pairs (ours, theirs).

        A weight has a row for each class, or one more for the background,
        which is the last in MMDetection; a regression by class has four.

        Args:
            key: The weight's key.
            theirs: Its shape in the file.
            ours: Its shape in the model.

        Returns:
            Nothing where the rows are no classes.
        """
        if not theirs or tuple(theirs[1:]) != tuple(ours[1:]):
            return []
        old, new, sizes = self.count, len(self.rows), (theirs[0], ours[0])
        pairs = [(i, at) for i, at in enumerate(self.rows) if at is not None]
        if sizes == (old, new):
            return pairs
        if sizes == (old + 1, new + 1):
            return [*pairs, (new, old)]
        if sizes == (4 * old, 4 * new) and 'reg' in key:
            return [
                (4 * i + k, 4 * at + k) for i, at in pairs for k in range(4)
            ]
        return []

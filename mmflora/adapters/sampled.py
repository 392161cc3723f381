"""Nested ranks of which each iteration of a training draws one."""

from collections.abc import Sequence
from typing import Any, ClassVar

from .settings import check_count, is_whole


def nested_ranks(
    kind: str,
    rank: int,
    ranks: Sequence[int] | None,
    names: tuple[str, str] = ('rank', 'ranks'),
    least: int = 1,
) -> tuple[int, ...]:
    """Return the ranks whose prefixes are trained, ascending.

    Args:
        kind: The method's name, for errors.
        rank: The highest of them.
        ranks: All of them; by default the powers of two up to ``rank``, and
            ``rank`` itself.
        names: The settings that they are, for errors.
        least: The lowest rank that is allowed.

    Raises:
        ValueError: If they are no integers from ``least`` to ``rank``, or the
            highest is not ``rank``, whose components would never train.
    """
    one, all_of_them = names
    check_count(kind, one, rank)
    if ranks is None:
        powers = (2**i for i in range(rank.bit_length()))
        return tuple(sorted({*powers, rank}))
    given: list[Any] = [*ranks] if isinstance(ranks, list | tuple) else [None]
    allowed = all(is_whole(value, least, rank) for value in given)
    if not allowed or rank not in given:
        raise ValueError(
            f'{kind}: `{all_of_them}` lists integers from {least} to the '
            f'{one}, {rank}, with {rank} itself, such as [1, 2, 4]; got '
            f'{all_of_them}={ranks!r}.'
        )
    return tuple(sorted(set(given)))


class SampledRanks:
    """An adapter of which each iteration of a training draws a prefix.

    ``SampledRankHook``, one of the hooks of every config, draws it.
    Elsewhere the whole rank counts.

    Attributes:
        sampled_ranks: The ranks to draw from; none if the adapter trains as
            a whole.
        per_layer: Whether the layer draws a rank of its own, or all layers
            the same one.
        prefix: The rank that counts; ``None`` for the whole one, 0 for the
            frozen layer.
    """

    sampled_ranks: Sequence[int] = ()
    per_layer: bool = False
    prefix: int | None = None
    rank_setting: ClassVar[str]

    def counted(self, rank: int) -> tuple[int, float]:
        """Return how many components count, and a factor on them.

        A prefix of rank 0 is one component times 0: the layer computes as
        the frozen one, and every parameter still gets a gradient.

        Args:
            rank: The whole rank.
        """
        if self.prefix is None:
            return rank, 1.0
        return max(self.prefix, 1), float(self.prefix > 0)

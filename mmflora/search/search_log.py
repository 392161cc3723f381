"""What a search has tested, so that it can go on after an interruption."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from mmflora.files.json_lines import append_line, read_lines

from .space import Architecture, Space


class SearchLog:
    """A file of JSON lines: what is searched, then each tested architecture.

    Args:
        path: The file; what another search wrote is refused.
        header: What is searched, and how, in plain types.
        space: The architectures.

    Attributes:
        rows: The tested architectures, as the file has them.

    Raises:
        ValueError: If the file is damaged, or of another search.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], space: Space
    ) -> None:
        lines = [read_lines(path) if is_main_process() else []]
        broadcast_object_list(lines)
        self.path, self.space = path, space
        self.rows: list[dict[str, Any]] = lines[0][1:]
        self.header = None if lines[0] else header
        if lines[0]:
            self._check(lines[0][0], header)
        self.known = {tuple(row['ranks']): row for row in self.rows}

    def add(
        self,
        architecture: Architecture,
        generation: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Add an architecture with its metrics."""
        row = dict(
            generation=generation,
            ranks=list(architecture),
            parameters=self.space.parameters(architecture),
            metrics=dict(metrics),
        )
        for line in (self.header, row):
            if line is not None and is_main_process():
                append_line(self.path, line)
        self.header = None  # which a search that fails at once leaves out
        self.rows.append(row)
        self.known[architecture] = row

    def metrics(self, architecture: Architecture) -> dict[str, float] | None:
        """Return the metrics of one that was tested, ``None`` of others.

        A metric that is no number is ``nan``.
        """
        row = self.known.get(architecture)
        if row is None:
            return None
        return {
            name: math.nan if value is None else float(value)
            for name, value in row['metrics'].items()
        }

    def _check(
        self, theirs: Mapping[str, Any], ours: Mapping[str, Any]
    ) -> None:
        differ = [
            f'{key}: {theirs.get(key)!r:.60} there, {ours.get(key)!r:.60} now'
            for key in ours
            if theirs.get(key) != ours[key]
        ]
        if differ:
            raise ValueError(
                f"'{self.path}' is the log of another search: "
                f'{"; ".join(differ)}. Give another --out, or remove the file '
                'to begin again.'
            )

"""Where annotations were written, as a config names the places."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmflora.new_config.annotated_images import ImageSet


@dataclass
class Written:
    """Where the annotations are, as a config names them."""

    # For each split the settings of its data sets.
    places: dict[str, list[dict[str, Any]]]
    # For each split the file that an evaluator reads.
    files: dict[str, str] = field(default_factory=dict)
    note: str = ''


def shown_path(path: Path, data: ImageSet) -> str:
    """Return a path of the data folder as the user named the folder."""
    below = path.relative_to(data.root)
    return (data.named / below).as_posix()

"""What was changed in a config, one line each."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Change:
    """One change of a config.

    Attributes:
        place: Where, such as ``'model.backbone.init_cfg'``.
        before: What stood there; ``None`` where nothing did.
        after: What stands there now; ``None`` where nothing does.
        why: The reason, for the reader of a table.
    """

    place: str
    before: Any
    after: Any
    why: str

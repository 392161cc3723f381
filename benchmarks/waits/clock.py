"""A hook that stops a training at its first iteration, and says when.

The benchmark puts it into the configs of both sides, so that the toolkit's
own tool and mmflora's are stopped at the same place.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

OUT = 'MMFLORA_CLOCK_FILE'
"""The environment variable that names the file to write."""
# MMEngine and PyTorch have been imported, the config is being read.
_imported = time.time()


@HOOKS.register_module()
class StartClock(Hook):
    """Writes the time and ends the process before the first iteration.

    What it writes: Unix time when the config was read (``read``), when the
    runner was built (``built``), when the first batch was there (``begins``);
    and the seconds of processor time until then (``cpu``).
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.built = time.time()

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        """Write, and leave without any clean-up, whose time is no start."""
        begins, used = time.time(), sum(os.times()[:4])
        marks = dict(read=_imported, built=self.built, begins=begins, cpu=used)
        Path(os.environ[OUT]).write_text(json.dumps(marks))
        os._exit(0)

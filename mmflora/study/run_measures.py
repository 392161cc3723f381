"""What is measured in a run: start, time and memory of its training."""

import contextlib
import hashlib
import json
import platform
import resource
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmflora.checkpoint.gaps import without_wrappers
from mmflora.count.parameters import count_model
from mmflora.files.atomic import write_text

from .first_values import start_with, tensor_bytes

COMPARED_BATCHES = 3
"""So many batches are compared between the methods of a seed."""


class MeasuresHook(Hook):
    """Sets the first values, and measures a training.

    Once it has seen the first batches it writes ``start.json``: hashes of the
    first values and of these batches, and the parameters.  At the end it
    writes ``training.json``: the seconds of a step (the median, loading
    included) and the peak of memory.  Building the model is no part of the
    peak.

    Args:
        folder: Where to write.
        values: The first values of neck and heads.
    """

    priority = 'VERY_LOW'

    def __init__(self, folder: Path, values: Mapping[str, Tensor]) -> None:
        self.folder = folder
        self.values = dict(values)
        self.start: dict[str, Any] = {}
        self._batches = hashlib.sha256()
        self._seconds: list[float] = []
        self._last = 0.0

    def before_train(self, runner: Any) -> None:
        """Set the first values, unless the run is resumed."""
        model = without_wrappers(runner.model)
        if runner.iter == 0:
            self.start = dict(
                first_values=start_with(model, self.values),
                parameters=asdict(count_model(model)),
            )
        self.values = {}
        reset_peak()
        self._last = time.perf_counter()

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Hash the first batches; note the start once all are there."""
        if not self.start or runner.iter >= COMPARED_BATCHES:
            return
        update_hash(self._batches, data_batch)
        if runner.iter + 1 < min(COMPARED_BATCHES, runner.max_iters):
            return
        batches = self._batches.hexdigest()[:16]
        write_text(
            self.folder / 'start.json',
            json.dumps(dict(self.start, first_batches=batches)),
        )

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Take the time of a step."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now

    def before_train_epoch(self, runner: Any) -> None:
        """Leave out what happened between the epochs."""
        self._last = time.perf_counter()

    def after_train(self, runner: Any) -> None:
        """Write what was measured."""
        measured = dict(
            steps=runner.iter,
            # The first steps allocate and warm up.
            seconds_per_step=statistics.median(
                self._seconds[2:] or self._seconds or [float('nan')]
            ),
            measured_steps=len(self._seconds),
            **peak_memory(),
        )
        write_text(self.folder / 'training.json', json.dumps(measured))


def update_hash(known: Any, batch: Any) -> None:
    """Add a batch to a hash: its tensors, and where its images are from."""
    if isinstance(batch, Tensor):
        known.update(tensor_bytes(batch))
    elif isinstance(batch, Mapping):
        for key in sorted(batch):
            known.update(str(key).encode())
            update_hash(known, batch[key])
    elif isinstance(batch, (list, tuple)):
        for item in batch:
            update_hash(known, item)
    else:
        known.update(Path(getattr(batch, 'img_path', '')).name.encode())


def reset_peak() -> None:
    """Let the peaks of memory start from what is held now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where this is forbidden, the peak is that of the whole process.
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory() -> dict[str, int]:
    """Return the peaks in bytes: of the process, and on the GPU."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                peak = int(line.split()[1]) * 1024
    memory = dict(peak_rss=peak)
    if torch.cuda.is_available():
        memory['peak_cuda'] = torch.cuda.max_memory_allocated()
    return memory


def processor_name() -> str:
    """Return the name of the processor, its kind where it has none."""
    path = Path('/proc/cpuinfo')
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if 'model name' in line]
    return names[0].strip() if names else platform.machine()

"""Several adapters on one resident base."""

from .combine import combine_adapters
from .inferencer import MultiTaskInferencer
from .shared_base import SharedBase
from .task_set import Task, TaskSet

__all__ = [
    'MultiTaskInferencer',
    'SharedBase',
    'Task',
    'TaskSet',
    'combine_adapters',
]

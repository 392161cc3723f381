"""Models without mmflora: plain checkpoints, plain configs, graphs."""

from .dense_outputs import DenseOutputs, Difference, largest_difference
from .graphs import GRAPH_BOUND, export_graph
from .merged_state import merge_final, merged_state
from .merging import (
    BOUNDS,
    MergeOptions,
    MergeReport,
    build_stock,
    merge_checkpoint,
)
from .plain_config import PlainConfig, plain_config
from .trained_model import build_model, load_trained

__all__ = [
    'BOUNDS',
    'GRAPH_BOUND',
    'DenseOutputs',
    'Difference',
    'MergeOptions',
    'MergeReport',
    'PlainConfig',
    'build_model',
    'build_stock',
    'export_graph',
    'largest_difference',
    'load_trained',
    'merge_checkpoint',
    'merge_final',
    'merged_state',
    'plain_config',
]

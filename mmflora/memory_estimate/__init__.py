"""The memory of a training step, predicted without a GPU and weights."""

from . import reporting
from .batch import BatchShape, batch_shape, make_batch, parse_image_size
from .cards import Card, Room, needed, parse_card, room
from .estimate import Estimate, count_real_step, predict, predict_batches
from .measured import check_gpu, measure_peak
from .model import check_trains
from .options import AS_IT_IS, Option, options
from .step import StepRecord

__all__ = [
    'AS_IT_IS',
    'BatchShape',
    'Card',
    'Estimate',
    'Option',
    'Room',
    'StepRecord',
    'batch_shape',
    'check_gpu',
    'check_trains',
    'count_real_step',
    'make_batch',
    'measure_peak',
    'needed',
    'options',
    'parse_card',
    'parse_image_size',
    'predict',
    'predict_batches',
    'reporting',
    'room',
]

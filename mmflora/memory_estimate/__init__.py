"""The memory of a training step, predicted without a GPU and weights."""

from .batch import BatchShape, batch_shape, parse_image_size
from .cards import parse_card
from .estimate import check_gpu, measure_peak, predict
from .options import AS_IT_IS, options
from .reporting import Forecast
from .step import check_trains

__all__ = [
    'AS_IT_IS',
    'BatchShape',
    'Forecast',
    'batch_shape',
    'check_gpu',
    'check_trains',
    'measure_peak',
    'options',
    'parse_card',
    'parse_image_size',
    'predict',
]

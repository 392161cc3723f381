"""The methods: one file adds one method."""

from .adaptformer import AdaptFormer
from .bitfit import BitFit
from .dora import DoRA
from .flora import FLoRA, tucker_ranks
from .full import Full
from .houlsby import Houlsby
from .lora import LoRA
from .lora_start import StartedLoRA
from .lora_xs import LoRAXS
from .norm_tuning import NormTuning
from .olora import OLoRA
from .pfeiffer import Pfeiffer
from .pissa import PiSSA
from .ssf import SSF

__all__ = [
    'AdaptFormer',
    'BitFit',
    'DoRA',
    'FLoRA',
    'Full',
    'Houlsby',
    'LoRA',
    'LoRAXS',
    'NormTuning',
    'OLoRA',
    'Pfeiffer',
    'PiSSA',
    'SSF',
    'StartedLoRA',
    'tucker_ranks',
]

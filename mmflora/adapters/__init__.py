"""Adapters: trainable updates of frozen weights."""

from .base import Adapter, AdapterBase, CannotAdapt, LowRank
from .blocks import BlockAdapter
from .cost import choose_path, path_costs
from .functional import mode_product, tucker_to_weight
from .hf_peft import HFPEFT
from .inject import (
    InjectionReport,
    adapted_layers,
    adapted_modules,
    inject,
)
from .layers import (
    ADAPTED_CLASSES,
    AdaptedLayer,
    adapt_layer,
    adapted_class,
    restore_layer,
)
from .memory.lean import make_lean
from .merge import Merged, disabled, merge, merge_for_good
from .methods.adaptformer import AdaptFormer
from .methods.bitfit import BitFit
from .methods.dora import DoRA
from .methods.flora import FLoRA, tucker_ranks
from .methods.full import Full
from .methods.houlsby import Houlsby
from .methods.lora import LoRA
from .methods.lora_start import StartedLoRA
from .methods.lora_xs import LoRAXS
from .methods.norm_tuning import NormTuning
from .methods.olora import OLoRA
from .methods.pfeiffer import Pfeiffer
from .methods.pissa import PiSSA
from .methods.ssf import SSF
from .tuning import Tuning, is_norm, tuned_parameters

__all__ = [
    'DoRA',
    'LoRA',
    'LoRAXS',
    'OLoRA',
    'PiSSA',
    'SSF',
    'StartedLoRA',
    'tucker_ranks',
    'restore_layer',
    'BitFit',
    'adapt_layer',
    'disabled',
    'Adapter',
    'CannotAdapt',
    'Houlsby',
    'InjectionReport',
    'tucker_to_weight',
    'adapted_class',
    'adapted_layers',
    'Pfeiffer',
    'BlockAdapter',
    'AdaptedLayer',
    'HFPEFT',
    'AdaptFormer',
    'LowRank',
    'Merged',
    'path_costs',
    'AdapterBase',
    'Tuning',
    'make_lean',
    'is_norm',
    'merge',
    'merge_for_good',
    'adapted_modules',
    'NormTuning',
    'tuned_parameters',
    'Full',
    'choose_path',
    'ADAPTED_CLASSES',
    'inject',
    'FLoRA',
    'mode_product',
]

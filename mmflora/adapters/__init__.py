"""Adapters: trainable updates of frozen weights."""

from .adaptformer import AdaptFormer
from .base import Adapter, AdapterBase, CannotAdapt, LowRank
from .bitfit import BitFit
from .blocks import BlockAdapter
from .cost import choose_path, path_costs
from .dora import DoRA
from .flora import FLoRA, tucker_ranks
from .full import Full
from .functional import mode_product, tucker_to_weight
from .hf_peft import HFPEFT
from .houlsby import Houlsby
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
from .lean import make_lean
from .lora import LoRA
from .lora_start import StartedLoRA
from .lora_xs import LoRAXS
from .merge import Merged, disabled, merge, merge_for_good
from .norm_tuning import NormTuning
from .olora import OLoRA
from .pfeiffer import Pfeiffer
from .pissa import PiSSA
from .ssf import SSF
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

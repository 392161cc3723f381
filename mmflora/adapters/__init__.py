"""Adapters: trainable updates of frozen weights.

In the order of use: inject a method, switch it off, merge it, take it off;
then the methods, what a method of one's own subclasses, and the parts.
"""

from .inject import InjectionReport, inject
from .merge import Merged, disabled, merge, merge_for_good
from .unload import injections, unload

# isort: split
from .methods.adaptformer import AdaptFormer
from .methods.bitfit import BitFit
from .methods.block_lora import BlockLoRA
from .methods.compacter import Compacter
from .methods.conv_adapter import ConvAdapter
from .methods.corda import CorDA
from .methods.diagonal import LoLDU, SVFit
from .methods.dora import DoRA
from .methods.dylora import DyLoRA
from .methods.e3va import E3VA
from .methods.eva import EVA
from .methods.fact import FacT, LoTR
from .methods.flora import FLoRA
from .methods.full import Full
from .methods.gps import GPS
from .methods.houlsby import Houlsby
from .methods.ladder import Ladder
from .methods.lift import LIFT
from .methods.loca import LoCA
from .methods.lora import LoRA
from .methods.lora_ga import LoRAGA
from .methods.lora_start import StartedLoRA
from .methods.lora_xs import LoRASB, LoRAXS
from .methods.lorand import LoRand
from .methods.lottery_ticket import LotteryTicket
from .methods.matryoshka import MatryoshkaLoRA
from .methods.matryoshka_flora import MatryoshkaFLoRA
from .methods.mona import Mona
from .methods.mosa import MoSA
from .methods.norm_tuning import NormTuning
from .methods.olora import OLoRA
from .methods.pfeiffer import Pfeiffer
from .methods.pissa import PiSSA
from .methods.queryable import QueryableLoRA
from .methods.rein import Rein
from .methods.rep_adapter import RepAdapter
from .methods.s2ft import S2FT
from .methods.sara import SaRA
from .methods.sct import SCT
from .methods.snell import SNELL, SNELLA
from .methods.soka import SoKA
from .methods.spt import SPT
from .methods.ssf import SSF
from .methods.superlora import SuperLoRA
from .methods.vpt import VPT

# isort: split
from .base import (
    Adapter,
    AdapterBase,
    CannotAdapt,
    LowRank,
    adapted_modules,
)
from .blocks import BlockAdapter, ChannelAdapter
from .bottleneck import Bottleneck
from .calibrated import (
    Calibrated,
    CalibratedAdapter,
    assume_calibrated,
    set_calibration,
)
from .calibration import calibrate, random_starts
from .cost import choose_path, path_costs
from .entries import Entries
from .functional import mode_product, tucker_to_weight
from .hf_peft import HFPEFT
from .layers import (
    ADAPTED_CLASSES,
    AdaptedLayer,
    adapt_layer,
    adapted_class,
    adapted_layers,
    restore_layer,
)
from .lower_ranks import LowerRanks
from .memory.lean import make_lean
from .ranks import tucker_ranks
from .sampled import SampledRanks
from .shared import SharingAdapter, sharing_layers
from .side_network import SideNetwork
from .sparse import SparseAdapter
from .tuning import Tuning, is_norm, tuned_parameters

__all__ = [  # noqa: RUF022
    'inject',
    'InjectionReport',
    'disabled',
    'merge',
    'merge_for_good',
    'Merged',
    'unload',
    'injections',
    # methods
    'AdaptFormer',
    'BitFit',
    'BlockLoRA',
    'Compacter',
    'ConvAdapter',
    'CorDA',
    'DoRA',
    'DyLoRA',
    'E3VA',
    'EVA',
    'FLoRA',
    'FacT',
    'Full',
    'GPS',
    'HFPEFT',
    'Houlsby',
    'LIFT',
    'LoCA',
    'Ladder',
    'LoLDU',
    'LoRA',
    'LoRAGA',
    'LoRASB',
    'LoRAXS',
    'LoRand',
    'LoTR',
    'MoSA',
    'MatryoshkaFLoRA',
    'MatryoshkaLoRA',
    'Mona',
    'LotteryTicket',
    'NormTuning',
    'OLoRA',
    'Pfeiffer',
    'PiSSA',
    'QueryableLoRA',
    'SNELL',
    'SNELLA',
    'Rein',
    'RepAdapter',
    'S2FT',
    'SPT',
    'SSF',
    'SaRA',
    'SCT',
    'SVFit',
    'SoKA',
    'StartedLoRA',
    'SuperLoRA',
    'VPT',
    # what a method subclasses
    'Adapter',
    'AdapterBase',
    'BlockAdapter',
    'Bottleneck',
    'Calibrated',
    'CalibratedAdapter',
    'CannotAdapt',
    'ChannelAdapter',
    'Entries',
    'LowRank',
    'LowerRanks',
    'SampledRanks',
    'SharingAdapter',
    'SparseAdapter',
    'SideNetwork',
    'Tuning',
    # what is in a model
    'adapted_layers',
    'adapted_modules',
    'is_norm',
    'tuned_parameters',
    # the parts
    'calibrate',
    'random_starts',
    'assume_calibrated',
    'set_calibration',
    'ADAPTED_CLASSES',
    'AdaptedLayer',
    'adapt_layer',
    'adapted_class',
    'choose_path',
    'make_lean',
    'mode_product',
    'path_costs',
    'restore_layer',
    'sharing_layers',
    'tucker_ranks',
    'tucker_to_weight',
]

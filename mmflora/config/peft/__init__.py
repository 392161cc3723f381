"""Any config of OpenMMLab becomes a run with a frozen base and adapters."""

from .changes import Change, changes_table
from .entry import adapt_config, peft_config

__all__ = ['Change', 'adapt_config', 'changes_table', 'peft_config']

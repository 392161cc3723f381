"""Text encoders of the transformers library that stand in detectors.

MMDetection's ``BertModel`` holds a tokenizer and a model of transformers,
whose version 5 no longer takes the calls that MMDetection makes.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


def support_transformers_5() -> None:
    """Let transformers 5 take the calls of MMDetection's text encoders.

    It removed ``batch_encode_plus`` of tokenizers, which calling them does
    as well, and masks of BERT by batch, query and key, which it still takes
    with a dimension for the heads.
    """
    transformers = _loaded()
    if transformers is None:
        return
    tokenizer = transformers.PreTrainedTokenizerBase
    if hasattr(tokenizer, 'batch_encode_plus'):
        return
    tokenizer.batch_encode_plus = tokenizer.__call__
    forward = transformers.BertModel.forward

    @functools.wraps(forward)
    def forward_with_any_mask(
        self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        if attention_mask is not None and attention_mask.dim() == 3:
            lowest = torch.finfo(self.dtype).min
            hidden = attention_mask[:, None].logical_not()
            attention_mask = hidden.to(self.dtype) * lowest
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    transformers.BertModel.forward = forward_with_any_mask


@contextmanager
def text_models_without_weights() -> Iterator[None]:
    """Let ``from_pretrained`` of models build them without their weights.

    On the meta device there is nothing to load into, and transformers
    refuses to be called there.  Its configurations and tokenizers are read.
    """
    transformers = _loaded()
    if transformers is None:
        yield
        return

    def build(
        cls: Any, name: str, *, config: Any = None, **options: Any
    ) -> Any:
        config = config or cls.config_class.from_pretrained(name)
        return cls(config, **options)

    model = transformers.PreTrainedModel
    with patch.object(model, 'from_pretrained', classmethod(build)):
        yield


def _loaded() -> Any:
    """Return transformers if MMDetection has loaded its text models."""
    if 'mmdet.models.language_models' not in sys.modules:
        return None
    return sys.modules.get('transformers')

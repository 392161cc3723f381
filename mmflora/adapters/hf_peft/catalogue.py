"""Which methods of huggingface/peft can adapt a layer in place."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..targets import did_you_mean

# Settings that choose layers or concern peft's own model wrapper; mmflora
# chooses layers by `targets` and saves by its own hook.
_NOT_OURS = frozenset(
    (
        'alora_invocation_tokens',
        'arrow_config',
        'auto_mapping',
        'base_model_name_or_path',
        'bias',
        'ensure_weight_tying',
        'exclude_modules',
        'inference_mode',
        'layer_replication',
        'layers_pattern',
        'layers_to_transform',
        'megatron_config',
        'megatron_core',
        'modules_to_save',
        'peft_type',
        'peft_version',
        'revision',
        'target_modules',
        'target_parameters',
        'task_type',
        'trainable_token_indices',
    )
)
# Whether peft's files hold what a seed determines; mmflora's always do, as the
# adapters would be lost with another version of the random numbers.
_SAVED = ('save_projection', 'save_indices')
# Methods that have layers to choose, and yet do not work here.
_UNFIT = {
    'ADAMSS': 'the shapes of its parameters follow from the frozen values, so '
    'that no checkpoint could be read before its base',
    'ADAPTION_PROMPT': 'it adds prompts to the attention of language models',
    'POLY': 'its forward pass asks for the identity of a task',
    'SHADOW': 'it runs a second, smaller transformer beside the first',
    'TRAINABLE_TOKENS': 'it trains the embeddings of chosen tokens',
    'XLORA': 'it mixes trained LoRA adapters of a language model',
}
_PROMPTS = 'it adds prompts to the input of a language model'


class MissingPeft(ImportError):
    """The library huggingface/peft, which is optional, is not there."""


def load_peft() -> Any:
    """Import peft, which takes seconds, when the first adapter needs it.

    Returns:
        The module ``peft``.

    Raises:
        MissingPeft: If it is not installed, with the way to install it.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingPeft(
            "type='HFPEFT' takes its methods from huggingface/peft, which "
            f'cannot be imported here ({error}). Install it: '
            "`pip install 'mmflora[peft]'` or `pip install peft`."
        ) from error
    return peft


def supported_types() -> list[str]:
    """Return the names of the methods that adapt layers in place."""
    return sorted(_usable(load_peft()))


def refused_types() -> dict[str, str]:
    """Map each method of peft that the bridge does not take to the reason."""
    peft = load_peft()
    usable = _usable(peft)
    return {
        kind.value: _UNFIT.get(kind.value, _PROMPTS)
        for kind in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
        if kind.value not in usable
    }


def config_class(peft_type: str) -> type:
    """Return the configuration class of a method.

    Args:
        peft_type: The name of the method, ``'LORA'``, in any case.

    Raises:
        TypeError: If it is no string.
        ValueError: If peft has no such method, or one that adapts no layer.
    """
    if not isinstance(peft_type, str):
        raise TypeError(
            "HFPEFT: `peft_type` is the name of a method, such as 'LORA', "
            f'got {peft_type!r}.'
        )
    peft = load_peft()
    usable, name = _usable(peft), peft_type.upper()
    if name in usable:
        return usable[name]
    known = ', '.join(sorted(usable))
    refused = refused_types()
    if name in refused:
        raise ValueError(
            f'HFPEFT: {name} does not adapt layers in place: {refused[name]}. '
            f'Methods that do: {known}.'
        )
    hint = did_you_mean(name, usable)
    raise ValueError(
        f'HFPEFT: peft {peft.__version__} has no method {peft_type!r}.{hint} '
        f'Methods that adapt layers: {known}.'
    )


def make_config(
    peft_type: str, options: Mapping[str, Any], names: Iterable[str]
) -> Any:
    """Build peft's configuration for layers of the given names.

    Raises:
        TypeError: If the method has no such setting.
        ValueError: If a setting is mmflora's to decide, or peft refuses it.
    """
    kind, names = config_class(peft_type), list(names)
    check_options(peft_type, options)
    settings = dict(options)
    if peft_type.upper() == 'ADALORA':
        # The runner's length is known later: AdaLoRAHook sets it.
        before = settings.get('tinit', 0) + settings.get('tfinal', 0)
        settings.setdefault('total_step', before + 1)
    if peft_type.upper() == 'IA3':
        patterns = settings.get('feedforward_modules') or ()
        if isinstance(patterns, str):
            patterns = [patterns]
        settings['feedforward_modules'] = [
            name
            for name in names
            if any(re.fullmatch(pattern, name) for pattern in patterns)
        ]
    return kind(target_modules=names, **settings)


def check_options(peft_type: str, options: Mapping[str, Any]) -> None:
    """Refuse settings that a method lacks, or that mmflora decides.

    Raises:
        TypeError: If the method has no such setting; the nearest is named.
        ValueError: If the setting is one of those that mmflora decides.
    """
    known = {
        field.name for field in dataclasses.fields(config_class(peft_type))
    }
    for name, value in options.items():
        if name == 'bias' and value == 'none':
            continue
        if name in _NOT_OURS and name in known:
            raise ValueError(
                f'HFPEFT: {name}={value!r} is not for an adapter to decide. '
                + (
                    "Train biases with type='BitFit' instead."
                    if name == 'bias'
                    else 'Choose layers with `targets` and `exclude`.'
                )
            )
        if name in _SAVED and not value:
            raise ValueError(
                f'HFPEFT: {name}={value!r}, but mmflora always saves what an '
                'adapter needs. Leave the option out.'
            )
        if name not in known:
            allowed = sorted(known - _NOT_OURS)
            hint = did_you_mean(name, allowed)
            raise TypeError(
                f'HFPEFT: {peft_type.upper()} has no option {name!r}.{hint} '
                f'Allowed are {", ".join(allowed)}.'
            )


def _usable(peft: Any) -> dict[str, type]:
    """Map the names of the methods that adapt layers to config classes."""
    configs = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    return {
        kind.value: configs[kind]
        for kind, tuner in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING.items()
        if tuner is not None
        and kind.value not in _UNFIT
        and 'target_modules'
        in {field.name for field in dataclasses.fields(configs[kind])}
    }

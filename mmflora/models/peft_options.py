"""How a backbone is frozen and adapted: what stands under ``peft``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mmflora.adapters.inject import Targets
from mmflora.adapters.targets import check_names


@dataclass(frozen=True)
class PEFTOptions:
    r"""The settings of a frozen backbone, ``peft=dict(...)`` in a config.

    Attributes:
        adapter: Configuration of the method, ``dict(type='FLoRA', rank=16)``;
            ``None`` freezes the base without any adapter.
        targets: Which layers to adapt, see :func:`mmflora.adapters.inject`;
            by default those that the backbone's class names as
            ``default_targets``, else all.
        exclude: Which layers to leave alone.
        new_params: Patterns of the backbone's parameters that no base holds
            (norms of the outputs, say); they train and are saved.  Added to
            the ``new_params`` that the backbone's class declares.
        unused_keys: Patterns of keys of the base's file that have no use
            here, beside classifiers.  Added to those that the backbone's
            class declares.
        calibration: For methods whose start needs training data: how many
            batches go through the frozen model before the first iteration,
            ``dict(batches=8)``, see
            :class:`mmflora.adapters.calibrated.Calibration`.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.memory.lean`; else outputs of norms alone.
        quantize: Keep the weights of frozen linear layers in 8 or 4 bits:
            ``dict(bits=8)``, see
            :class:`mmflora.adapters.quantized.Quantization`.
        norm_eval: Whether the base's batch norms keep their statistics in
            training, whatever the backbone's class does by default, see
            :func:`mmflora.models.train_mode.keep_statistics`.  By default
            all do but those that train in full; with ``True`` these, too;
            ``False`` leaves that to the class.
        autocast: ``'bfloat16'`` or ``'float16'``: compute the backbone under
            autocast, with float32 features out.  For backbones without such
            an argument of their own.
        allow_other_quantization: Accept adapters that were trained over the
            same base stored otherwise, which is an error by default.
        allow_random_base: Allow training over a base without a source; every
            checkpoint then holds it in full.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAConvNeXt',
        ...     arch='convnextv2_large',
        ...     peft=dict(
        ...         adapter=dict(type='FLoRA', rank=16, scale=4.0),
        ...         targets={r'stages\.3\..*': dict(rank=32), '.*': {}},
        ...     ),
        ... )
    """

    adapter: Mapping[str, Any] | None
    targets: Targets | None = None
    exclude: str | Iterable[str] = ()
    new_params: str | Iterable[str] = ()
    unused_keys: str | Iterable[str] = ()
    calibration: Mapping[str, Any] | None = None
    lean: bool = False
    quantize: Mapping[str, Any] | None = None
    norm_eval: bool | None = None
    autocast: str | None = None
    allow_other_quantization: bool = False
    allow_random_base: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> 'PEFTOptions':
        """Check the settings of a config.

        Raises:
            TypeError: If they are no dict, name no ``adapter``, or there is
                no such setting; the nearest is named.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(
                '`peft` is a dict of settings, such as dict(adapter=dict('
                f"type='FLoRA', rank=16)), got {settings!r}."
            )
        check_names('`peft`', 'setting', settings, PEFT_NAMES)
        if 'adapter' not in settings:
            raise TypeError(
                '`peft` names no adapter: add adapter=dict(type=...), or '
                'adapter=None for a frozen backbone without one.'
            )
        return cls(**settings)

    @classmethod
    def take(
        cls,
        arguments: dict[str, Any],
        peft: Mapping[str, Any] | None,
        names: Iterable[str] = (),
        adapter: Mapping[str, Any] | None = None,
    ) -> 'PEFTOptions':
        """Take the settings out of a backbone's arguments.

        Args:
            arguments: The backbone's arguments; settings that stand directly
                among them, as before there was ``peft``, are taken away.
            peft: The settings.
            names: Settings that are the backbone's own arguments.
            adapter: The method where the settings say nothing of one.

        Raises:
            TypeError: See :meth:`of`.
        """
        direct = {
            name: arguments.pop(name)
            for name in PEFT_NAMES
            if name in arguments and name not in names
        }
        settings = peft_settings({'peft': peft, **direct})
        if adapter is not None and 'adapter' not in settings:
            settings['adapter'] = adapter
        return cls.of(settings)


PEFT_NAMES = tuple(field.name for field in fields(PEFTOptions))


def peft_settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a frozen backbone's config as one dict.

    They stand under ``peft``.  Those that stand directly in the config, as
    before there was ``peft``, replace or extend them, as a config that
    inherits replaces or extends its base's.

    Raises:
        TypeError: If ``peft`` is no dict.
    """
    peft = backbone.get('peft')
    if peft is not None and not isinstance(peft, Mapping):
        PEFTOptions.of(peft)
    settings = dict(peft or {})
    for name in PEFT_NAMES:
        if name in backbone:
            settings[name] = _merged(settings.get(name), backbone[name])
    return settings


def set_peft(backbone: dict[str, Any], **changes: Any) -> None:
    """Change settings of a frozen backbone's config, all under ``peft``."""
    settings = peft_settings(backbone) | changes
    for name in PEFT_NAMES:
        backbone.pop(name, None)
    backbone['peft'] = settings


def _merged(old: Any, new: Any) -> Any:
    """Return a setting in which a later one replaces or extends another."""
    if not isinstance(new, Mapping):
        return new
    new = dict(new)
    whole = new.pop('_delete_', False) or not isinstance(old, Mapping)
    if whole or new.get('type', old.get('type')) != old.get('type'):
        return new
    return {**old, **new}


def part_settings(parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings of a model's frozen parts by their paths.

    A path is a key with dots, or keys within each other, as
    ``--cfg-options model.parts.head.decoder.adapter.rank=8`` writes it; these
    replace or extend what stands under the key with dots.

    Raises:
        TypeError: If a part has no dict of settings.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, own in parts.items():
        if not isinstance(own, Mapping):
            raise TypeError(
                f'`parts`: {str(path)!r} has {own!r}, but each part has a '
                "dict of settings, such as dict(adapter=dict(type='FLoRA', "
                'rank=16)).'
            )
        inner = {key: own[key] for key in own if key not in PEFT_NAMES}
        nested = inner and all(isinstance(v, Mapping) for v in inner.values())
        settings = {key: own[key] for key in own if key in PEFT_NAMES}
        if not nested:
            settings |= inner  # unknown ones; their check names the nearest
        if settings or not own:
            found[str(path)] = _extended(found.get(str(path)), settings)
        for name, below in part_settings(inner).items() if nested else ():
            whole = f'{path}.{name}'
            found[whole] = _extended(found.get(whole), below)
    return found


def set_part(parts: dict[str, Any], path: str, **changes: Any) -> None:
    """Change settings of one of a model's frozen parts, in the config."""
    settings = part_settings(parts)
    settings[path] |= changes
    parts.clear()
    parts.update(settings)


def _extended(
    old: Mapping[str, Any] | None, new: Mapping[str, Any]
) -> dict[str, Any]:
    merged = dict(old or {})
    for name, value in new.items():
        merged[name] = _merged(merged.get(name), value)
    return merged

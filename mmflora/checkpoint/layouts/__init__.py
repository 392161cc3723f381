"""Key layouts of published weights, one file per family."""

from torch import nn

from . import swin_keys, vit_keys

# Classifiers, for which a dense backbone has no use.
_CLASSIFIERS = r'(head|fc|classifier)\..*'


def unused_keys(backbone: nn.Module) -> tuple[str, ...]:
    """Return patterns of published keys without use for a backbone."""
    names = {kind.__name__ for kind in type(backbone).__mro__}
    return (
        _CLASSIFIERS,
        *(
            pattern
            for family in (swin_keys, vit_keys)
            if names & set(family.CLASSES)
            for pattern in family.UNUSED_KEYS
        ),
    )

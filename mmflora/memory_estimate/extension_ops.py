"""mmcv's compiled operators among fake tensors.

They are no operators of PyTorch but plain functions that read memory, which a
fake tensor has not.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor

from .known_values import KnownValues
from .live_bytes import tensors_in
from .replaced import replaced

# Those that return something; the others fill tensors that they are given.
_RETURNING = 'nms'


@contextmanager
def extension_ops_stand_in(values: KnownValues) -> Iterator[None]:
    """Let mmcv's operators take fake tensors.

    One whose arguments are all known runs with their values, on the CPU.
    Others do nothing: the tensors that they would fill are there already.
    """
    try:
        extension = importlib.import_module('mmcv._ext')
    except ImportError:  # mmcv without its operators: none will be called
        yield
        return
    with ExitStack() as stack:
        for name, function in list(vars(extension).items()):
            if callable(function) and not name.startswith('_'):
                function = _stand_in(name, function, values)
                stack.enter_context(replaced(extension, name, function))
        yield


def _stand_in(
    name: str, function: Callable[..., Any], values: KnownValues
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = tensors_in((args, kwargs))
        fakes = [leaf for leaf in tensors if isinstance(leaf, FakeTensor)]
        if not fakes:
            return function(*args, **kwargs)
        known = all(values.is_known(leaf) for leaf in tensors)
        if not known and _RETURNING not in name:
            return None
        result = values.call(function, args, kwargs)
        return values.imitate(result, fakes[0].device)

    return call

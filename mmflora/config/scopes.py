"""Makes ``_base_ = 'mmflora::…'`` and ``_base_ = 'mmseg::…'`` resolvable.

MMEngine looks a scope up in a table of its own, in which mmflora is unknown,
and in which mmseg stands for a distribution named ``mmsegmentation`` that its
maintained build, ``onedl-mmsegmentation``, does not provide.

It also reads all metafiles of the package, a hundred of YAML, for each base
that it resolves, and then takes the file of that name.  Here the file comes
first: a config over four files of mmdet is read in a tenth of the time.
"""

from importlib.util import find_spec

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from .zoo_names import configs_of

# The names to install where a module is missing; they differ from the module.
DISTRIBUTIONS = {'mmseg': 'onedl-mmsegmentation'}


def register_config_scopes() -> None:
    """Enter mmflora and mmseg into MMEngine's table of config scopes.

    A module that is there stands for itself: MMEngine then finds it however
    it was installed. One that is missing stands for the distribution to
    install, which MMEngine names in its error.

    Call it before ``Config.fromfile``: base files are resolved before a
    config's ``custom_imports`` run.
    """
    for module in ('mmflora', 'mmseg'):
        found = find_spec(module) is not None
        MODULE2PACKAGE[module] = (
            module if found else DISTRIBUTIONS.get(module, module)
        )
    if Config._get_cfg_path is not _get_cfg_path_without_own_scope:
        Config._get_cfg_path = staticmethod(_get_cfg_path_without_own_scope)


_get_cfg_path = Config._get_cfg_path


def _get_cfg_path_without_own_scope(
    cfg_path: str, filename: str
) -> tuple[str, str | None]:
    """Find a base file as MMEngine does, but give mmflora's no scope.

    MMEngine writes the scope of an external base into everything that the
    base builds, so that ``EncoderDecoder`` would be looked for in mmflora.
    What mmflora's configs build is mostly the toolkits'; its own modules they
    name as ``mmflora.X``.
    """
    scope: str | None
    scope, _, name = cfg_path.partition('::')
    folder = configs_of(scope)
    if folder and (folder / name).is_file():
        path = str(folder / name)
    else:
        path, scope = _get_cfg_path(cfg_path, filename)
    return path, None if scope == 'mmflora' else scope

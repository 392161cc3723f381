"""What importing mmflora changes in a process, all in one place."""

from mmengine import runner
from mmengine.config import Config
from mmengine.fileio import register_backend, register_handler
from mmengine.fileio.handlers import yaml_handler
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmflora.adapter_files import loaders
from mmflora.checkpoint.gaps import guard_mmengine_loading
from mmflora.config.scopes import register_config_scopes
from mmflora.files.atomic import ATOMIC_BACKEND, AtomicLocalBackend
from mmflora.files.config_text import config_from_text
from mmflora.files.pickles import PlainPickleHandler
from mmflora.files.sources import TIMM_SCHEME, load_from_timm
from mmflora.files.training_checkpoints import find_newest
from mmflora.models.text_models import support_text_detectors


def install() -> None:
    """Change what importing mmflora changes; doing it twice is harmless.

    No file runs code
        1. MMEngine reads checkpoints, from files, URLs and object stores, by
           :func:`mmflora.files.pickles.read_safely`: tensors and plain values
           alone, each record compared with its checksum.
        2. ``Config.fromstring`` reads Python's text as data, as the
           inferencers do with the config in a checkpoint.
        3. ``mmengine.load`` reads ``.pkl`` files with plain values, arrays
           and tensors alone, and YAML with PyYAML's ``FullLoader``.

        Within :func:`mmflora.checkpoint.trusted_checkpoints` the first three
        doors stand open as without mmflora, but for YAML.

    What else MMEngine reads, writes and refuses
        4. ``timm://<tag>``, ``.safetensors`` files and adapters, wherever a
           checkpoint is named.
        5. ``mmflora::`` and ``mmseg::`` in ``_base_`` of configs.
        6. ``--resume`` goes on from the newest whole checkpoint, also where
           ``last_checkpoint`` is empty, outdated or names a damaged file.
        7. MMEngine's ``load_state_dict`` refuses what would leave a part of an
           adapted model random, see :mod:`mmflora.checkpoint.gaps`.
        8. ``backend_args=dict(backend='mmflora_atomic_local')``: local files
           that are written in full or not at all.
        9. transformers 5 takes the calls of MMDetection's text encoders, and
           Grounding DINO encodes boxes in the width of its own weights, see
           :mod:`mmflora.models.text_models`.

    Beside these, the modules of mmflora are registered in MMEngine's
    registries, as ``mmflora.X``; and a logger of bitsandbytes, which warns of
    kernels that nothing here uses, says errors alone (in ``mmflora/__init__``,
    before MMEngine imports bitsandbytes).  Python's garbage collector pauses
    during imports, see :mod:`mmflora.collector`.
    """
    CheckpointLoader.register_scheme('', loaders.load_from_local, force=True)
    CheckpointLoader.register_scheme(
        r'.*\.safetensors$', loaders.load_from_local, force=True
    )
    CheckpointLoader.register_scheme(TIMM_SCHEME, load_from_timm, force=True)
    # What the loaders of MMEngine's other schemes read with.
    checkpoint.load_url = loaders.load_url
    checkpoint._safe_torch_load = loaders.load_torch_file
    Config.fromstring = staticmethod(config_from_text)
    register_handler(['pickle', 'pkl'])(PlainPickleHandler)
    yaml = yaml_handler.yaml
    yaml_handler.Loader = getattr(yaml, 'CFullLoader', yaml.FullLoader)
    for module in (runner, runner.runner, runner._flexible_runner, checkpoint):
        module.find_latest_checkpoint = find_newest
    guard_mmengine_loading()
    register_config_scopes()
    register_backend(ATOMIC_BACKEND, AtomicLocalBackend, force=True)
    support_text_detectors()

"""Write the files of this folder, as the present code writes them.

    python tests/old_files/make.py FOLDER

The files here were written by version 0.1.0, before packages, options and
the record's buffer changed; `test_old_files.py` reads them with the code of
today. Never write them again with newer code: add a folder beside them.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests' / 'test_engine')]

import torch  # noqa: E402
import toy  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

import mmflora  # noqa: E402, F401
from mmflora.adapter_files import from_checkpoint, write_adapter  # noqa: E402

METHODS = {
    'flora': dict(type='FLoRA', rank=4, kernel_rank=2, scale=0.5),
    'lora': dict(type='LoRA', rank=2, alpha=3.0),
    'lora-loralib': dict(type='LoRA', rank=2, alpha=3.0, form='loralib'),
    'dora': dict(type='DoRA', rank=2, alpha=3.0),
    'pissa': dict(type='PiSSA', rank=2, alpha=3.0),
    'olora': dict(type='OLoRA', rank=2, alpha=3.0),
    'lora-xs': dict(type='LoRAXS', rank=2, alpha=3.0),
    'ssf': dict(type='SSF'),
    'full': dict(type='Full'),
    'bitfit': dict(type='BitFit'),
    'norm-tuning': dict(type='NormTuning'),
    'houlsby': dict(type='Houlsby', width=4),
    'pfeiffer': dict(type='Pfeiffer', width=4),
    'adaptformer': dict(type='AdaptFormer', width=4, scale=0.5),
    'frozen': None,
    'peft-dora': dict(type='HFPEFT', peft_type='LORA', r=2, use_dora=True),
    'two-methods': dict(type='LoRA', rank=2, alpha=3.0),
}
TARGETS = {
    'lora-loralib': r'.*\.(mlp\.fc[12]|conv_dw)',
    'two-methods': {r'.*\.conv_dw': dict(type='Full'), '.*': {}},
}
CONFIGS = (
    'flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py',
    'flora/oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py',
    'flora/upernet_internvit-tiny_flora-r16_shapes-128x128.py',
)


def backbone(method, base):
    """Return the backbone's config of a method over the base."""
    options = {}
    if method in TARGETS:
        options['targets'] = TARGETS[method]
    return dict(
        type='mmflora.PEFTConvNeXt',
        arch=toy.TINY,
        adapter=METHODS[method],
        init_cfg=dict(type='Pretrained', checkpoint=str(base)),
        **options,
    )


def main(folder):
    """Train each method for an epoch; keep checkpoint, adapter, logits."""
    folder.mkdir(parents=True)
    base = toy.write_base(folder / 'base.pth')
    expected = {}
    for method in METHODS:
        run = toy.runner(folder / method, backbone(method, base), epochs=1)
        run.train()
        path = folder / f'{method}.pth'
        content = torch.load(
            folder / method / 'epoch_1.pth', weights_only=True
        )
        content['meta']['cfg'] = ''
        if method != 'flora':  # whose file is resumed from
            for key in ('optimizer', 'param_schedulers', 'message_hub'):
                content.pop(key, None)
        torch.save(content, path)
        tested = toy.runner(
            folder / f'{method}_test',
            backbone(method, base),
            test=True,
            load_from=str(path),
        )
        tested.test()
        expected[method] = toy.Logits.last
    torch.save(expected, folder / 'logits.pth')
    for method in ('flora', 'houlsby'):
        write_adapter(
            from_checkpoint(folder / f'{method}.pth'),
            folder / f'{method}.safetensors',
        )
    for name in CONFIGS:
        init_default_scope('mmengine')
        Config.fromfile(ROOT / 'configs' / name).dump(folder / Path(name).name)


if __name__ == '__main__':
    main(Path(sys.argv[1]))

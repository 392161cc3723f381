"""Small versions of the zoo's models, and files of whole models for them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import mmdet
import mmseg
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from mmflora.config.build import build_model, read_config
from mmflora.config.walk import find_dicts

FLORA = dict(type='FLoRA', rank=2, kernel_rank=2, scale=4.0)
LORA = dict(type='LoRA', rank=2)
ZOOS = {
    name: Path(module.__file__).parent / '.mim/configs'
    for name, module in {'mmdet': mmdet, 'mmseg': mmseg}.items()
}
# What makes a transformer small, wherever it stands; widths are 256 there.
SMALL = dict(
    feedforward_channels=48,
    num_feats=16,
    num_heads=4,
    num_groups=4,
    num_layers=1,
    num_queries=20,
    num_dn_queries=5,
    num_cp=0,
)
WIDTHS = (
    'embed_dims',
    'feat_channels',
    'out_channels',
    'channels',
    'v_dim',
    'l_dim',
)
R18 = {'depth': 18, 'base_channels': 8}


@dataclass
class Case:
    """A config of a zoo, made small.

    Attributes:
        config: The zoo and the file.
        options: Settings that make it small, beyond :data:`SMALL`.
        classes: Settings that give it other classes.
        parts: Its frozen parts, with their methods.
        new: What then is new, as the config says it.
        texts: Whether it reads texts, too.
    """

    config: str
    options: dict
    classes: dict
    parts: dict
    new: set = field(default_factory=set)
    texts: bool = False


def channels(*widths):
    return dict(in_channels=list(widths))


DETR = dict(backbone=R18, neck=channels(16, 32, 64))
BOTH = dict(backbone=dict(adapter=FLORA), encoder=dict(adapter=LORA))
HEAD = {r'bbox_head\.fc_cls\.weight', r'bbox_head\.fc_cls\.bias'}
BRANCHES = {
    r'bbox_head\.cls_branches\.\d+\.weight',
    r'bbox_head\.cls_branches\.\d+\.bias',
}
CASES = {
    'dino': Case(
        'mmdet/dino/dino-4scale_r50_8xb2-12e_coco.py',
        dict(**DETR, bbox_head=dict(embed_dims=32)),
        dict(bbox_head=dict(num_classes=3)),
        dict(**BOTH, decoder=dict(adapter=LORA), neck=dict(adapter=None)),
        {*BRANCHES, r'dn_query_generator\.label_embedding\.weight'},
    ),
    'deformable-detr': Case(
        'mmdet/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
        dict(**DETR, bbox_head=dict(embed_dims=32)),
        dict(bbox_head=dict(num_classes=3)),
        dict(**BOTH, decoder=dict(adapter=dict(type='BitFit'))),
        BRANCHES,
    ),
    'mask2former': Case(
        'mmdet/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        dict(backbone=R18, panoptic_head=channels(8, 16, 32, 64)),
        dict(
            panoptic_head=dict(
                num_things_classes=3,
                loss_cls=dict(class_weight=[1.0] * 3 + [0.1]),
            ),
            panoptic_fusion_head=dict(num_things_classes=3),
        ),
        {
            'backbone': dict(adapter=FLORA),
            'panoptic_head.pixel_decoder': dict(adapter=FLORA),
            'panoptic_head.transformer_decoder': dict(adapter=LORA),
        },
        {
            r'panoptic_head\.cls_embed\.weight',
            r'panoptic_head\.cls_embed\.bias',
        },
    ),
    'mask2former-mmseg': Case(
        'mmseg/mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py',
        dict(backbone=R18, decode_head=channels(8, 16, 32, 64)),
        dict(
            decode_head=dict(
                num_classes=3, loss_cls=dict(class_weight=[1.0] * 3 + [0.1])
            )
        ),
        {'decode_head.pixel_decoder': dict(adapter=FLORA)},
        {r'decode_head\.cls_embed\.weight', r'decode_head\.cls_embed\.bias'},
    ),
    'segformer': Case(
        'mmseg/segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        dict(
            backbone=dict(embed_dims=8, num_layers=[1, 1, 1, 1]),
            decode_head=channels(8, 16, 40, 64),
        ),
        dict(decode_head=dict(num_classes=3)),
        dict(
            backbone=dict(adapter=FLORA),
            # Not the classifier, which is new and trains as a whole.
            decode_head=dict(adapter=FLORA, exclude='conv_seg'),
        ),
        {r'conv_seg\.weight', r'conv_seg\.bias'},
    ),
    'setr': Case(
        'mmseg/setr/setr_vit-l_pup_8xb1-80k_cityscapes-768x768.py',
        dict(
            backbone=dict(
                embed_dims=16,
                num_layers=4,
                num_heads=2,
                img_size=(64, 64),
                out_indices=(0, 1, 2, 3),
            ),
            decode_head=dict(in_channels=16),
        ),
        dict(decode_head=dict(num_classes=3)),
        {
            'backbone': dict(adapter=LORA),
            'auxiliary_head.[01]': dict(adapter=FLORA),
        },
        {r'decode_head\.conv_seg\.weight', r'decode_head\.conv_seg\.bias'},
    ),
    'rtmdet': Case(
        'mmdet/rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        dict(
            backbone=dict(widen_factor=0.125),
            neck=dict(**channels(32, 64, 128), out_channels=32),
            bbox_head=dict(in_channels=32, feat_channels=32),
        ),
        dict(bbox_head=dict(num_classes=3)),
        dict(
            backbone=dict(adapter=FLORA),
            neck=dict(adapter=FLORA),
            bbox_head=dict(adapter=FLORA, exclude=r'rtm_cls\..*'),
        ),
        {r'rtm_cls\.\d+\.weight', r'rtm_cls\.\d+\.bias'},
    ),
    'mm-grounding-dino': Case(
        'mmdet/mm_grounding_dino/grounding_dino_swin-t_finetune_8xb4_20e_cat.py',
        dict(
            backbone=dict(
                embed_dims=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 2, 2, 4],
                with_cp=False,
            ),
            neck=channels(16, 32, 64),
            encoder=dict(fusion_layer_cfg=dict(embed_dim=32)),
            # The class has positions of texts in 256 channels alone.
            positional_encoding=dict(num_feats=128),
        ),
        dict(bbox_head=dict(num_classes=3)),
        {
            'backbone': dict(adapter=FLORA),
            'language_model': dict(adapter=LORA),
            # Lists of layers: each of them is a part.
            'encoder.fusion_layers': dict(adapter=LORA),
            'encoder.layers': dict(adapter=None),
        },
        {r'dn_query_generator\.label_embedding\.weight'},
        texts=True,
    ),
}


def small_config(case, folder):
    """Return the zoo's config with a small model."""
    zoo, _, file = case.config.partition('/')
    whole = read_config(str(ZOOS[zoo] / file))
    model = whole.model.to_dict()
    for _, node in find_dicts(model, ''):
        for key in node:
            if isinstance(node[key], int) and key in SMALL:
                node[key] = SMALL[key]
            elif node[key] == 256 and key in WIDTHS and not case.texts:
                node[key] = 32
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
    cfg = Config(dict(model=model, default_scope=whole.default_scope))
    change(cfg, case.options)
    if case.texts:
        cfg.model.language_model.name = str(write_text_model(folder))
    if zoo == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
        for head in as_list(cfg.model.get('auxiliary_head') or []):
            head.in_channels = 16
    return cfg


def as_list(value):
    return value if isinstance(value, list) else [value]


def change(cfg, options):
    """Set options as a config that inherits does."""
    cfg.merge_from_dict(dict(model=options))


def write_text_model(folder):
    """Write a text model as Hugging Face's library publishes one."""
    from transformers import BertConfig, BertModel

    place = folder / 'bert'
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?']
    words += ['red', 'white', 'cell', 'platelet', '##s']
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(place)  # with its pooler, unused here
    (place / 'vocab.txt').write_text('\n'.join(words) + '\n')
    settings = dict(tokenizer_class='BertTokenizer', do_lower_case=True)
    (place / 'tokenizer_config.json').write_text(json.dumps(settings))
    return place


def write_whole(cfg, path, seed=0):
    """Write the checkpoint of a stock model, each weight and statistic drawn.

    Returns:
        Its state dict.
    """
    torch.manual_seed(seed)
    model = build_model(cfg, weights=False, sync_bn=False)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.normal_(std=0.1)
                if 'running_var' in key or value.dim() == 1:
                    value.abs_().add_(0.5)
    state = model.state_dict()
    torch.save(dict(state_dict=state, meta=dict()), path)
    return {key: value.clone() for key, value in state.items()}


def batch(cfg, size=64):
    """Return two made images with their annotations."""
    if cfg.default_scope == 'mmseg':
        return pseudo_collate([seg_item(i, size) for i in range(2)])
    texts = [('red cell', 'white cell', 'platelet')] * 2
    return demo_mm_inputs(
        2,
        (3, size, size),
        num_items=[2, 3],
        num_classes=3,
        with_mask='panoptic_head' in cfg.model,
        texts=texts if 'language_model' in cfg.model else None,
        custom_entities=True,
    )


@DATASETS.register_module()
class MadeDetections(Dataset):
    """Two made images, for a config to name."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self):
        self.whole = demo_mm_inputs(
            2, (3, 64, 64), num_items=[2, 3], num_classes=3
        )

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {key: self.whole[key][index] for key in self.whole}


def seg_item(index, size):
    source = torch.Generator().manual_seed(index)
    shape = (size, size)
    sample = SegDataSample(
        gt_sem_seg=PixelData(
            data=torch.randint(0, 3, (1, *shape), generator=source)
        ),
        metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape),
    )
    image = torch.randint(
        0, 255, (3, *shape), generator=source, dtype=torch.uint8
    )
    return dict(inputs=image, data_samples=sample)

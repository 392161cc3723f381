# DINOv3 ViT-7B/16, trained on LVD-1689M: 40 blocks of width 4096 with gated
# MLPs, rotary embeddings, one class and four register tokens; 6.7 billion
# parameters.
#
# The folder of Hugging Face, its shards and their index, is read block by
# block into bfloat16, 8 or 4 bits. Meta's file and timm's do as well.
base_weights = 'checkpoints/dinov3-vit7b16-pretrain-lvd1689m'
weights_help = (
    "The folder holds Meta's facebook/dinov3-vit7b16-pretrain-lvd1689m of "
    'Hugging Face (DINOv3 License): the .safetensors shards and their index. '
    "Meta's file dinov3_vit7b16_pretrain_lvd1689m-….pth does as well."
)

vit = dict(
    type='mmflora.TimmBackbone',
    model_name='vit_7b_patch16_dinov3',
    out_indices=[39],
    # The base is kept in bfloat16, 13 GB; adapters and heads train in float32.
    # On a GPU without bfloat16: float16, and peft.autocast=None.
    dtype='bfloat16',
    # Each block is computed once more in the backward pass.
    with_cp=True,
    init_cfg=dict(type='Pretrained', checkpoint=base_weights),
)

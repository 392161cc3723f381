# The pre-trained backbone as it is: only its new pyramid and what stands
# behind it train. Nothing of the backbone is dropped, as its authors have it.
method = dict(
    type='mmflora.PEFTInternViT', drop_path_rate=0.0, peft=dict(adapter=None)
)

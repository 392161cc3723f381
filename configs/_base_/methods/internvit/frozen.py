# The frozen pre-trained backbone: only its new pyramid and the modules after
# it train. There is no stochastic depth, as in its authors' code.
method = dict(
    type='mmflora.PEFTInternViT', drop_path_rate=0.0, peft=dict(adapter=None)
)

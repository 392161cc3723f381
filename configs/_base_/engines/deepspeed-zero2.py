# DeepSpeed's ZeRO, stage 2: gradients and the optimizer's state are sharded,
# every process holds all parameters.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmflora.DeepSpeedStrategy',
    zero_optimization=dict(stage=2, overlap_comm=True),
)

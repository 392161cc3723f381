# DeepSpeed's ZeRO, stage 3: parameters, gradients and the optimizer's state
# are sharded.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmflora.DeepSpeedStrategy',
    zero_optimization=dict(stage=3, overlap_comm=True),
)

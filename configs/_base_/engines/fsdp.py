# Parameters, gradients and the optimizer's state are sharded over all
# processes, each block of the backbone by itself. Any other config
# is sharded by
#   --cfg-options runner_type=FlexibleRunner strategy.type=mmflora.FSDPStrategy
runner_type = 'FlexibleRunner'
strategy = dict(type='mmflora.FSDPStrategy')

# The frozen pre-trained backbone, without stochastic depth: only what comes
# after it trains.
method = dict(backbone=dict(drop_path_rate=0.0), peft=dict(adapter=None))

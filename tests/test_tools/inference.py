"""Builds a model from an adapter checkpoint in every way that users do.

Usage: python inference.py CONFIG CHECKPOINT PICTURE.  Says for each way
whether its weights and predictions are those of `Runner.test()`, bit for bit.
"""

import sys

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint


def build_as_runner(config, checkpoint):
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_checkpoint(model, checkpoint, map_location='cpu')
    model.cfg = cfg
    return model.eval()


def ways_of_mmseg(config, checkpoint):
    from mmseg.apis import MMSegInferencer, init_model

    yield 'init_model', init_model(config, checkpoint, device='cpu')
    inferencer = MMSegInferencer(config, weights=checkpoint, device='cpu')
    yield 'MMSegInferencer', inferencer.model


def ways_of_mmdet(config, checkpoint, scope):
    from mmdet.apis import DetInferencer, init_detector

    yield 'init_detector', init_detector(config, checkpoint, device='cpu')
    inferencer = DetInferencer(
        config, weights=checkpoint, device='cpu', scope=scope
    )
    yield 'DetInferencer', inferencer.model


def predict(model, picture, scope):
    if scope == 'mmseg':
        from mmseg.apis import inference_model

        return [inference_model(model, picture).seg_logits.data]
    from mmdet.apis import inference_detector

    found = inference_detector(model, picture).pred_instances
    return [
        getattr(value, 'tensor', value) for _, value in sorted(found.items())
    ]


def equal(first, second):
    return len(first) == len(second) > 0 and all(
        torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


def main():
    config, checkpoint, picture = sys.argv[1:]
    expected = build_as_runner(config, checkpoint)
    scope = expected.cfg.default_scope
    if scope == 'mmseg':
        ways = ways_of_mmseg(config, checkpoint)
    else:
        ways = ways_of_mmdet(config, checkpoint, scope)
    outputs = predict(expected, picture, scope)
    state = list(expected.state_dict().values())
    for name, model in ways:
        model.cfg = expected.cfg
        same = equal(state, list(model.state_dict().values()))
        same_outputs = equal(outputs, predict(model, picture, scope))
        print(f'{name}: weights {same}, predictions {same_outputs}')


if __name__ == '__main__':
    main()

"""What a training starts from: stages that must keep what they know."""

from __future__ import annotations

import torch
from torch import nn

from deepfake.model import DeepfakeDetector
from training.start import freeze


def test_frozen_stages_answer_alike_in_training_and_the_others_do_not() -> None:
    """Neither batch statistics nor stochastic depth may change what they say."""
    torch.manual_seed(0)
    model = DeepfakeDetector("tf_efficientnet_lite0", 64, pretrained=False, drop_path=0.9)
    backbone = model.backbone
    first = nn.Sequential(backbone.conv_stem, backbone.bn1, *backbone.blocks[:4])
    pictures = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = first.eval()(pictures)
        frozen = freeze(model, 5)  # the stem and four
        model.train()
        for module in frozen:
            module.eval()
        assert all(torch.equal(first(pictures), expected) for _ in range(5))
        said = [backbone.blocks[4:](expected) for _ in range(5)]
    assert not all(torch.equal(said[0], other) for other in said)

"""What a training run starts from: a file, timm's ImageNet weights, or nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import group_parameters
from torch import Tensor, nn

from deepfake.errors import DataError
from deepfake.model import DeepfakeDetector


def initial_model(opt: argparse.Namespace, say: Callable[..., None]) -> DeepfakeDetector:
    """The model of ``--backbone`` with the best start that can be had, and a line saying which.

    Raises:
        DataError: ``--init`` or ``--backbone`` cannot be used, or not at these sizes.
    """
    option = "image_size"
    try:
        model = _create(opt, say).eval()
        for option in ("image_size", "train_size", "first_size"):
            side = getattr(opt, option)
            with torch.inference_mode():
                model(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # timm's own refusals
        size = f"--{option.replace('_', '-')} {getattr(opt, option)}"
        wanted = f"--backbone {opt.backbone} with {size}"
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise DataError(f"{wanted} cannot be used: {reason}.") from error
    return model


def freeze(model: DeepfakeDetector, stages: int) -> list[nn.Module]:
    """Let the first so many stages of the backbone, its stem being one, keep what they know.

    Their parameters get no gradients from then on. The modules that are returned must be in
    evaluation mode in training, or their running statistics would change all the same and
    stochastic depth would leave some of them out.

    Raises:
        DataError: the backbone has no more stages than that.
    """
    if not stages:
        return []
    backbone: Any = model.backbone
    matcher = backbone.group_matcher(coarse=True)  # timm's own division, of any of its models
    names = group_parameters(backbone, matcher)
    if stages >= len(names):
        raise DataError(
            f"--freeze is {stages}, but {model.backbone_name} has {len(names)} stages, of which "
            "one at least must learn."
        )
    parameters = dict(backbone.named_parameters())
    for stage in range(stages):
        for name in names[stage]:
            parameters[name].requires_grad_(False)
    return [m for m in backbone.modules() if _is_frozen(m)]


def _is_frozen(module: nn.Module) -> bool:
    """Whether it has parameters and none of them learns; what it is made of counts with it."""
    learns = [p.requires_grad for p in module.parameters()]
    return bool(learns) and not any(learns)


def _create(opt: argparse.Namespace, say: Callable[..., None]) -> DeepfakeDetector:
    def build(pretrained: bool) -> DeepfakeDetector:
        return DeepfakeDetector(
            opt.backbone, opt.image_size, pretrained, opt.dropout, opt.cbam, opt.drop_path
        )

    if opt.init:
        model = build(pretrained=False)
        say(f"starting from {opt.init}: {_load(model, opt.init)}")
        return model
    if opt.pretrained:
        say("asking timm's hub for ImageNet weights ...")
        try:
            model = build(pretrained=True)
            say(f"starting from timm's ImageNet weights of {opt.backbone}")
            return model
        except DataError:
            raise
        except Exception as error:  # the hub's client fails in many types when it is not reached
            say(f"timm's ImageNet weights cannot be had ({type(error).__name__}).")
    say("starting from scratch: random weights. --init FILE gives a better start.")
    return build(pretrained=False)


def _load(model: DeepfakeDetector, path: Path) -> str:
    """Load what fits of a timm state dict or one of our checkpoints; says how much that was."""
    weights, backbone_name = _state_dict(path)
    if backbone_name not in ("", model.backbone_name):
        # Their tensors may well fit: efficientnet_b4 and tf_efficientnet_b4 differ in padding only.
        raise DataError(
            f"{path} is a checkpoint of {backbone_name}, not of {model.backbone_name}; "
            f"give --backbone {backbone_name}, or make a larger one from it with training.grow."
        )
    ours = model.state_dict()
    if not any(k.startswith("backbone.") for k in weights):
        weights = {f"backbone.{k}": v for k, v in weights.items()}
    fitting = {k: v for k, v in weights.items() if k in ours and v.shape == ours[k].shape}
    backbone = [k for k in ours if k.startswith("backbone.") and not k.endswith("tracked")]
    found = sum(k in fitting for k in backbone)
    if found < 0.9 * len(backbone):
        raise DataError(
            f"{path} fits {found} of {len(backbone)} tensors of {model.backbone_name}; "
            "it holds the weights of another network."
        )
    model.load_state_dict({k: v.float() for k, v in fitting.items()}, strict=False)
    return f"{found} of {len(backbone)} backbone tensors, {len(fitting)} in all"


def _state_dict(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """The weights in a file and, where it is one of our checkpoints, their backbone's name."""
    if not path.is_file():
        raise DataError(f"--init {path} does not exist.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler fails in a dozen types on bytes that are no pickle
        raise DataError(f"--init {path} is damaged or holds more than weights.") from error
    name = ""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        config = content.get("model")
        name = str(config.get("backbone", "")) if isinstance(config, dict) else ""
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"--init {path} is not a state dict.")
    return content, name

"""Where the network looked: Grad-CAM heat maps of face crops.

Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1 and 2, on the attended map A (after CBAM) that the
classifier takes the mean of, with channels k and places (i, j)::

    a_k = mean over (i, j) of dy / dA_kij        L = ReLU(sum over k of a_k A_k)

y is the logit of the label that the face got, less the other one: the softmax knows nothing else.
As the classifier sees only the mean of A, the gradient is alike at every place, and only the
classifier is run backwards. A face is judged in three views, so their maps, the mirrored view's
turned back and each laid on the part of the crop that its view sees, are added before the ReLU.

A map says which places made the network answer as it did. It proves nothing about what, if
anything, was changed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from deepfake.model import DeepfakeDetector
from deepfake.views import PARTS, VIEWS, make_views

MAX_MAPS = 8  # per photo: what a crowd may cost is bounded


def heat_maps(
    model: DeepfakeDetector, crops: Sequence[Image.Image], fake: Sequence[bool]
) -> list[Tensor]:
    """Where in each face crop the network saw what speaks for the label.

    Args:
        model: in eval mode, on any device. PyTorch runs it whatever the runtime is.
        crops: square RGB face crops of any size.
        fake: for each crop, whether to look for what speaks for fake, else for real.

    Returns:
        For each crop a float32 map (h, w) on the CPU, from its top left corner, h and w being
        those of the last feature map (7 x 7 for 224 pixels). The values are in [0, 1], relative
        to the strongest place of this crop, which is 1; all are 0 where nothing speaks for the
        label.
    """
    with _one_thread():
        return [_heat_map(model, crop, f) for crop, f in zip(crops, fake, strict=True)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other, which on busy cores costs more than they gain.

    Seven faces took 1.6 s on one thread and 12 to 24 s on two, on two cores with a load of 9.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _heat_map(model: DeepfakeDetector, crop: Image.Image, fake: bool) -> Tensor:
    views = torch.from_numpy(make_views(crop, model.image_size)).to(model.mean.device)
    with torch.no_grad():
        attended = model.cbam(model.features(model.preprocess(views)))
    with torch.enable_grad():
        attended.requires_grad_()
        real, of_fake = model.head(attended.mean(dim=(2, 3))).sum(dim=0)
        score = of_fake - real if fake else real - of_fake
        (gradient,) = torch.autograd.grad(score, attended)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = (weights * attended.detach()).sum(dim=1)
    mirrored = VIEWS.index("flip")
    maps[mirrored] = maps[mirrored].flip(-1)
    heat: Tensor = _on_the_crop(maps.float().cpu()).sum(dim=0).relu()
    return heat / heat.max().clamp_min(torch.finfo(torch.float32).tiny)


def _on_the_crop(maps: Tensor) -> Tensor:
    """Maps of the views (3, h, w) -> the same on the whole crop, bilinear; edges are drawn out."""
    places = torch.stack([torch.eye(2, 3) / part for part in PARTS])
    grid = nn.functional.affine_grid(places, [len(maps), 1, *maps.shape[1:]], align_corners=False)
    laid = nn.functional.grid_sample(
        maps[:, None], grid, padding_mode="border", align_corners=False
    )
    return laid[:, 0]

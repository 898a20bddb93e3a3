"""The pipeline as the published report describes it, written plainly, to compare with.

Full-size MTCNN, the crop as it comes, and one forward pass of eager PyTorch in float32 for each
of the three views. It finds and judges the same faces with the same weights; nothing in it is
slowed down on purpose.
"""

from __future__ import annotations

import io

import torch
from facenet_pytorch import MTCNN
from PIL import Image
from torchvision.transforms import v2

from deepfake.faces import MIN_SCORE, crop_face
from deepfake.model import DeepfakeDetector


class ReferencePipeline:
    """Photo bytes -> P(fake) of each face.

    Args:
        model: in eval mode, on the CPU.
        margin: of the crop, as fraction of the face box's longer side.
    """

    def __init__(self, model: DeepfakeDetector, margin: float) -> None:
        self.model, self.margin = model, margin
        self.detector = MTCNN(keep_all=True, device="cpu")
        size = model.image_size
        base = [v2.Resize((size, size)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        self.views = (
            v2.Compose(base),
            v2.Compose([v2.RandomHorizontalFlip(p=1.0), *base]),
            v2.Compose([v2.ColorJitter(0.1, 0.1, 0.1, 0.02), *base]),
        )

    @torch.inference_mode()
    def __call__(self, blob: bytes) -> list[float]:
        image = Image.open(io.BytesIO(blob)).convert("RGB")
        boxes, scores = self.detector.detect(image)
        answers = []
        for box, score in zip(boxes, scores, strict=True):
            if score < MIN_SCORE:
                continue
            crop = crop_face(image, tuple(box), self.margin)
            p_fake = []
            for view in self.views:
                x = self.model.preprocess(view(crop).unsqueeze(0))
                p_fake.append(float(self.model(x).softmax(dim=1)[0, 1]))
            answers.append(sum(p_fake) / len(p_fake))
        return answers

"""Photos in, verdicts out: the whole way from bytes to labels, for a batch.

The handler and the evaluation call this and nothing else, so that what is measured is what is
served.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deepfake.checkpoint import DEFAULT_POINT, Checkpoint, load
from deepfake.errors import CheckpointError, DeepfakeError, InternalError, NoFace, OutOfMemory
from deepfake.explain import MAX_MAPS, heat_maps
from deepfake.faces import Face, FaceDetector, crop_face, crop_square
from deepfake.images import decode, full_size
from deepfake.runtime import make_runtime, probability
from deepfake.verdict import FaceVerdict, Verdict
from deepfake.views import PARTS, VIEWS, Pixels, make_views

MAX_FACES = 32  # per photo, the largest: a crowd must not fill the memory
CROP_SIDE = 512  # pixels of the crops in an answer; the network has seen all of theirs

log = logging.getLogger(__name__)

Observe = Callable[[str, float], None]
"""Called with a stage (decode, detect, classify) and the seconds it took."""

Times = list[tuple[str, float]]


Photo = bytes | Image.Image | DeepfakeError
"""File bytes, an upright RGB image, or the error that came instead of one."""


@dataclass(frozen=True)
class _Found:
    """What is kept of a photo once its faces are cut out; the photo itself may be huge.

    Attributes:
        size: width and height of the upright photo, pixels.
        faces: all of them, largest first.
        crops: of the first ``MAX_FACES``, as they are shown.
        views: the same as the network sees them, uint8 (N, 3 views, 3, S, S).
    """

    size: tuple[int, int]
    faces: list[Face]
    crops: list[Image.Image]
    views: Pixels


class Pipeline:
    """Detector and classifier, loaded and ready.

    Args:
        checkpoint: what ``deepfake.checkpoint.load`` returned.
        device: where the classifier runs, "cpu" or "cuda"; faces are found on the CPU.
        point: name of the operating point whose threshold is used.
        runtime: what runs the classifier: auto, openvino or torch.

    Raises:
        CheckpointError: the checkpoint has no operating point of this name, or the runtime
            cannot be had.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "cpu",
        point: str = DEFAULT_POINT,
        runtime: str = "auto",
    ) -> None:
        self.checkpoint = checkpoint
        self.point = checkpoint.point(point)
        self.band = checkpoint.band(point)
        self.model = checkpoint.model
        self.runtime = make_runtime(
            self.model, torch.device(device), runtime, checkpoint.temperature
        )
        self.detector = FaceDetector()

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        device: str = "cpu",
        point: str = DEFAULT_POINT,
        runtime: str = "auto",
    ) -> Pipeline:
        """A pipeline from a ``saved_model.pth``; CheckpointError when it cannot be used."""
        return cls(load(Path(path)), device, point, runtime)

    def warm_up(self) -> None:
        """Run both networks once: the first call of each is many times slower.

        Raises:
            CheckpointError: the network answers with something else than probabilities.
        """
        size = self.model.image_size
        self.detector(Image.new("RGB", (256, 256), "grey"))
        (views,) = self.classify([Image.new("RGB", (size, size), "grey")])
        if not all(0 <= p <= 1 for p in views):  # NaN fails this too
            raise CheckpointError(f"The network answers {views}, which are no probabilities.")

    def predict(
        self, photos: Sequence[Photo], observe: Observe | None = None
    ) -> list[Verdict | DeepfakeError]:
        """Judge a batch of photos; all faces of all of them go through the network at once.

        Args:
            photos: file bytes, upright RGB images, or errors to be passed on.
            observe: told the seconds of each stage; decode and detect once per photo, however
                often that takes more than one look; classify once per call.

        Returns:
            For each photo its verdict, or the error that kept it from one. Nothing is raised
            for a single photo: the others of its batch are answered all the same.
        """
        times: list[tuple[str, float]] = []  # of several threads; told by this one
        found = self._each(lambda photo: self._timed_look(photo, times), photos)
        examined = [item for item in found if isinstance(item, _Found)]
        answers: Iterator[Verdict | DeepfakeError] = iter(())
        if examined:
            with _timed("classify", times):
                answers = iter(self._judged(examined))
        for stage, seconds in times:
            (observe or _ignore)(stage, seconds)
        return [item if isinstance(item, DeepfakeError) else next(answers) for item in found]

    def classify(self, crops: Sequence[Image.Image]) -> list[tuple[float, ...]]:
        """P(fake) of each view of each face crop.

        Args:
            crops: square RGB face crops of any size, at least one.

        Returns:
            For each crop, P(fake) in [0, 1] of each of ``VIEWS``, after temperature scaling.
        """
        size = self.model.image_size
        return self._p_fake(np.stack([make_views(crop, size) for crop in crops]))

    def _p_fake(self, views: Pixels) -> list[tuple[float, ...]]:
        logits = self.runtime(views.reshape(-1, *views.shape[2:]))
        p_fake = probability(logits, self.checkpoint.temperature)
        return [tuple(row) for row in p_fake.reshape(-1, len(VIEWS)).tolist()]

    def explain(self, verdict: Verdict) -> Verdict | DeepfakeError:
        """The verdict with heat maps of its ``MAX_MAPS`` most fake faces, or what went wrong."""
        faces = list(verdict.faces)
        ranked = sorted(range(len(faces)), key=lambda i: -faces[i].fake_probability)
        try:
            for i in ranked[:MAX_MAPS]:
                (heat,) = heat_maps(self.model, [faces[i].crop], [faces[i].label == "Fake"])
                faces[i] = replace(faces[i], heat_map=heat)
        except Exception as error:
            return fault(error)
        return replace(verdict, faces=tuple(faces))

    def _timed_look(self, photo: Photo, times: Times) -> _Found | DeepfakeError:
        """``_look``, with one time for each stage that it went through."""
        own: Times = []
        found = self._look(photo, own)
        times += [(stage, sum(s for name, s in own if name == stage)) for stage in dict(own)]
        return found

    def _look(self, photo: Photo, times: Times) -> _Found | DeepfakeError:
        """Decode one photo, find its faces and cut them out; or the error that came of it."""
        if isinstance(photo, DeepfakeError):
            return photo
        try:
            image, faces = self._searched(photo, times)
            if not faces:
                raise NoFace("No face was found; send a photo in which a face is clearly visible.")
            return self._cut(photo, image, faces, times)
        except DeepfakeError as error:
            return error
        except Exception as error:
            return fault(error)

    def _searched(self, photo: bytes | Image.Image, times: Times) -> tuple[Image.Image, list[Face]]:
        """The photo, with no more pixels decoded than were looked at, and its faces."""
        first, second = self.detector.sides
        image = photo
        if isinstance(image, bytes):
            with _timed("decode", times):
                image = decode(image, least_side=first)
        with _timed("detect", times):
            faces = self.detector.look(image, first)
        if not faces and max(_size(photo, image)) > first:
            if isinstance(photo, bytes) and image.size != full_size(image):
                with _timed("decode", times):
                    image = decode(photo, least_side=second)
            with _timed("detect", times):
                faces = self.detector.look(image, second, bordered=False)
        return image, faces

    def _cut(
        self, photo: bytes | Image.Image, image: Image.Image, faces: list[Face], times: Times
    ) -> _Found:
        """Cut the faces out; where that leaves the network too few pixels, of the full photo."""
        margin, side = self.checkpoint.crop_margin, self.model.image_size
        size = _size(photo, image)
        factor = round(max(size) / max(image.size))  # 1, 2, 4 or 8: see ``decode``
        shown = [face.scaled(factor, size) for face in faces]
        boxes = [face.box for face in faces[:MAX_FACES]]
        smallest = min(crop_square(image.size, box, margin)[2] for box in boxes)
        if factor > 1 and smallest * min(PARTS) < side and isinstance(photo, bytes):
            with _timed("decode", times):
                image = decode(photo)
            boxes = [face.box for face in shown[:MAX_FACES]]
        crops = [crop_face(image, box, margin) for box in boxes]
        views = np.stack([make_views(crop, side) for crop in crops])
        for crop in crops:
            crop.thumbnail((CROP_SIDE, CROP_SIDE))
        return _Found(size, shown, crops, views)

    def _each(
        self, look: Callable[[Photo], _Found | DeepfakeError], photos: Sequence[Photo]
    ) -> list[_Found | DeepfakeError]:
        """Several photos at once: much of the work on one of them keeps a single core busy."""
        threads = min(len(photos), torch.get_num_threads())
        if threads < 2:
            return [look(photo) for photo in photos]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(look, photos))

    def _judged(self, found: list[_Found]) -> list[Verdict | DeepfakeError]:
        """The faces of all photos through the network at once; each photo by itself where that
        fails, since it may be one of them, or all together, that it cannot take."""
        try:
            p_fake = iter(self._p_fake(np.concatenate([item.views for item in found])))
        except Exception as error:
            reason = fault(error)
            if len(found) == 1:
                return [reason]
            return [self._judged([item])[0] for item in found]
        return [self._verdict(item, list(islice(p_fake, len(item.views)))) for item in found]

    def _verdict(self, found: _Found, views: list[tuple[float, ...]]) -> Verdict | DeepfakeError:
        judged = [
            self._judge(face, crop, of_face)
            for face, crop, of_face in zip(found.faces, found.crops, views, strict=False)
        ]  # of the faces beyond ``MAX_FACES`` there are neither crops nor views
        if not all(0 <= face.fake_probability <= 1 for face in judged):  # NaN fails this too
            log.error("the network answered with a number that is no probability")
            return InternalError("The network gave no usable answer for this photo.")
        return Verdict(
            faces=tuple(judged),
            faces_found=len(found.faces),
            point=self.point,
            width=found.size[0],
            height=found.size[1],
            band=self.band,
        )

    def _judge(self, face: Face, crop: Image.Image, views: tuple[float, ...]) -> FaceVerdict:
        p_fake = sum(views) / len(views)
        fake = p_fake > self.point.threshold
        label = "Fake" if fake else "Real"
        return FaceVerdict(
            face=face,
            fake_probability=p_fake,
            views=views,
            label=label,
            verdict="Uncertain" if self._too_close(p_fake) else label,
            confidence=p_fake if fake else 1 - p_fake,
            crop=crop,
        )

    def _too_close(self, p_fake: float) -> bool:
        return self.band is not None and self.band[0] <= p_fake <= self.band[1]


def _size(photo: bytes | Image.Image, image: Image.Image) -> tuple[int, int]:
    """Of the photo that an image was decoded from: of one that was passed in, its own, since it may
    be a part of one from ``decode``."""
    return full_size(image) if isinstance(photo, bytes) else image.size


def fault(error: Exception) -> DeepfakeError:
    """What an error means that is not the photo's fault as far as we know; to be called where it
    is handled. The others of the batch must not suffer."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if short or "allocate memory" in str(error):  # PyTorch's words on a CPU
        log.error("out of memory")
        return OutOfMemory("There was not enough memory for this photo; try again later.")
    log.exception("a photo could not be examined")
    return InternalError("The photo could not be examined; this is our fault, not yours.")


@contextmanager
def _timed(stage: str, times: Times) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times.append((stage, time.perf_counter() - started))


def _ignore(stage: str, seconds: float) -> None:
    pass

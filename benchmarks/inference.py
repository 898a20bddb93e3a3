"""The library beside the reference pipeline, and the network beside what the processor can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import ReferencePipeline
from benchmarks.scenes import SCENES
from deepfake.checkpoint import Checkpoint
from deepfake.pipeline import Pipeline
from deepfake.runtime import OpenVinoRuntime, converted, make_runtime
from deepfake.verdict import Verdict

BATCH = 8  # photos at once, as model-config.yaml has it
Contestants = dict[str, Callable[[], object]]


def milliseconds(contestants: Contestants, rounds: int) -> dict[str, float]:
    """Median time of each, in milliseconds, over rounds that take all of them in turn.

    In its turn each runs twice and the second run counts: the first one finds the caches full of
    the contestant before it, and PyTorch's threads still waiting busily for more of its work.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for each in contestants.values():
        each()  # the very first call of anything is slower still
    for _ in range(rounds):
        for name, each in contestants.items():
            each()
            started = time.perf_counter()
            each()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def photos(checkpoint: Checkpoint, pipeline: Pipeline, rounds: int) -> dict[str, Any]:
    """(a) and (b) on every scene, and where the library's time goes."""
    reference = ReferencePipeline(checkpoint.model, checkpoint.crop_margin)
    rows = {}
    for name, make in SCENES.items():
        blob = make()
        (answer,) = pipeline.predict([blob])
        assert isinstance(answer, Verdict), answer
        found = milliseconds(
            {
                "reference": lambda blob=blob: reference(blob),  # type: ignore[misc]
                "library": lambda blob=blob: pipeline.predict([blob]),  # type: ignore[misc]
                "batch": lambda blob=blob: pipeline.predict([blob] * BATCH),  # type: ignore[misc]
            },
            rounds,
        )
        rows[name] = found | {
            "faces": len(answer.faces),
            "reference_faces": len(reference(blob)),
            "stages": stages(pipeline, blob, rounds),
        }
    return rows


def stages(pipeline: Pipeline, blob: bytes, rounds: int) -> dict[str, float]:
    """Mean milliseconds of each stage of one photo; what none of them covers is "other"."""
    seen: dict[str, float] = {}
    started = time.perf_counter()
    for _ in range(rounds):
        pipeline.predict([blob], lambda k, s: seen.update({k: seen.get(k, 0.0) + 1000 * s}))
    whole = 1000 * (time.perf_counter() - started)
    found = {stage: spent / rounds for stage, spent in seen.items()}
    return found | {"other": whole / rounds - sum(found.values())}


def classifiers(
    checkpoint: Checkpoint, small: Checkpoint, pipeline: Pipeline, rounds: int
) -> dict[str, Any]:
    """(d) and the ViT of (e): three views of one face, and what the processor could do.

    ``small`` is a smaller network that could serve instead.

    The ViT has random weights: it is its time that counts.
    """
    model, size = checkpoint.model, checkpoint.model.image_size
    views = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), dtype=np.uint8)
    pixels = model.preprocess(torch.from_numpy(views))
    single = pixels[:1]
    channels_last = make_runtime(deepcopy(model), torch.device("cpu"), "torch")
    vit = timm.create_model("vit_base_patch16_224", num_classes=2).eval()
    smaller = make_runtime(small.model, torch.device("cpu"))
    halved = OpenVinoRuntime(converted(model), "bf16")
    alone = converted(model)
    alone.reshape([1, 3, size, size])
    one_view = OpenVinoRuntime(alone, "f32").network  # the runtime itself takes three
    side = 2048
    a, b = torch.rand(side, side), torch.rand(side, side)
    halves = a.bfloat16(), b.bfloat16()
    contestants: Contestants = {
        pipeline.runtime.name: lambda: pipeline.runtime(views),
        "openvino f32, one view instead of three": lambda: one_view(views[:1]),
        f"{smaller.name}, {small.model.backbone_name}": lambda: smaller(views),
        "torch f32, eager, a view at a time": lambda: [model(single) for _ in range(3)],
        "torch f32, eager, three at once": lambda: model(pixels),
        "torch f32, eager, three at once, channels last": lambda: channels_last(views),
        "openvino bf16": lambda: halved(views),
        "ViT-B/16, torch f32, eager, three at once": lambda: vit(pixels),
        "matrix product f32": lambda: a @ b,
        "matrix product bf16": lambda: halves[0] @ halves[1],
    }
    with torch.inference_mode():
        found = milliseconds(contestants, rounds)
        with FlopCounterMode(display=False) as counter:
            model(pixels)
    return {
        "milliseconds": found,
        "network_gflop": counter.get_total_flops() / 1e9,
        "matrix_gflops": {
            kind: 2 * side**3 / 1e6 / found[f"matrix product {kind}"] for kind in ("f32", "bf16")
        },
    }

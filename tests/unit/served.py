"""TorchServe's own context and requests, for a handler without a server."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves a file open
    from ts.context import Context as Context
    from ts.context import RequestProcessor as RequestProcessor
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl


def new_context(folder: Path, workers: int, options: Mapping[str, str] | None = None) -> Context:
    """As TorchServe makes it; ``options`` is what model-config.yaml has under ``handler``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as above
        metrics = MetricsCacheYamlImpl(config_file_path=str(ROOT / "handler" / "metrics.yaml"))
        metrics.initialize_cache()
    model = {"modelName": "deepfake", "modelVersion": "1.0", "serializedFile": "saved_model.pth"}
    return Context(
        model_name="deepfake",
        model_dir=str(folder),
        manifest={"model": model},
        batch_size=8,
        gpu=None,
        mms_version="0.12.0",
        metrics=metrics,
        model_yaml_config={"maxWorkers": workers, "handler": options},
    )

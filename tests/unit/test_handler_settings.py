"""What the handler is started with: checkpoint, operating point, runtime, a share of the cores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.checkpoint import load, save, sha256
from deepfake.cpus import usable
from deepfake.errors import CheckpointError
from handler.deepfake_handler import DeepfakeHandler
from tests.conftest import ASTRONAUT
from tests.openapi import validate
from tests.unit.served import RequestProcessor, new_context


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("workers", [1, 1000])
def test_workers_share_the_cores(unpacked: Path, workers: int) -> None:
    DeepfakeHandler().initialize(new_context(unpacked, workers, {"runtime": "torch"}))
    cores = usable()
    assert torch.get_num_threads() == (cores if workers == 1 else 1)


def test_a_missing_checkpoint_fails_the_load_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"saved_model\.pth does not exist"):
        DeepfakeHandler().initialize(new_context(tmp_path, workers=1000))


def answered(folder: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """What a handler that was started with these options says about the astronaut."""
    context = new_context(folder, workers=1000, options=options)
    handler = DeepfakeHandler()
    handler.initialize(context)
    context.request_processor = {0: RequestProcessor({})}
    (body,) = handler.handle([{"body": ASTRONAUT.read_bytes()}], context)
    assert context.get_response_status(0)[0] == 200
    return dict(json.loads(body))


@pytest.mark.usefixtures("threads")
def test_the_operating_point_of_the_configuration_decides(unpacked: Path) -> None:
    balanced = answered(unpacked, {"operatingPoint": "balanced", "runtime": "torch"})
    strict = answered(unpacked, {"operatingPoint": "fpr1", "runtime": "torch"})
    assert (balanced["threshold"], balanced["false_positive_rate"]) == (0.5, 0.125)
    assert (strict["threshold"], strict["false_positive_rate"]) == (0.875, 0.01)
    assert balanced["fake_probability"] == strict["fake_probability"]
    assert balanced["model"]["runtime"] == "torch f32"


@pytest.mark.usefixtures("threads")
def test_balanced_decides_where_the_configuration_names_none(unpacked: Path) -> None:
    assert answered(unpacked, {"runtime": "torch"})["false_positive_rate"] == 0.125


@pytest.mark.usefixtures("threads")
def test_an_uncertain_answer_is_as_documented_and_counted_as_such(
    unpacked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unsure = replace(load(unpacked / "saved_model.pth"), uncertain=(0.0, 1.0))
    save(tmp_path / "saved_model.pth", unsure)
    with caplog.at_level("INFO", logger="ts"):
        answer = answered(tmp_path, {"runtime": "torch"})
    assert answer["verdict"] == answer["faces"][0]["verdict"] == "Uncertain"
    assert answer["label"] in ("Fake", "Real")
    assert re.search(r"deepfake_verdicts_total\S*label:Uncertain,", caplog.text)
    validate(answer, "Verdict")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operatingPoint": "fpr7"}, "no operating point 'fpr7', only balanced, fpr1"),
        ({"runtime": "abacus"}, "runtime 'abacus' is unknown"),
    ],
)
def test_an_unknown_setting_fails_the_load_in_one_sentence(
    unpacked: Path, options: Mapping[str, str], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        DeepfakeHandler().initialize(new_context(unpacked, workers=1000, options=options))


@pytest.mark.parametrize("where", ["archive", "environment"])
def test_a_checkpoint_other_than_the_one_written_down_is_not_loaded(
    unpacked: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = new_context(unpacked, workers=1)
    good = sha256(unpacked / "saved_model.pth")
    context.model_yaml_config["checkpointSha256"] = "0" * 64 if where == "archive" else good
    monkeypatch.setenv("DEEPFAKE_CHECKPOINT_SHA256", good if where == "archive" else "0" * 64)
    with pytest.raises(CheckpointError, match="is not the file that was archived"):
        DeepfakeHandler().initialize(context)

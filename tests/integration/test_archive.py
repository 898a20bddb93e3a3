"""The archive answers as the library does, from its own copy of everything.

The archive is unpacked and loaded by TorchServe's own Python code, in a fresh process that runs
in the unpacked folder, as a worker does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from deepfake.checkpoint import sha256
from deepfake.pipeline import Pipeline
from deepfake.verdict import Verdict

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = ROOT / "model_store" / "deepfake.mar"
PHOTOS = sorted((ROOT / "tests" / "fixtures").glob("*.jpg"))

# What ts/model_service_worker.py and ts/service.py do with a LOAD and a PREDICT message.
WORKER = """
import json, sys
from pathlib import Path
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory
from ts.service import Service

folder, metrics_file, *photos = sys.argv[1:]
metrics = MetricsCacheYamlImpl(config_file_path=metrics_file)
metrics.initialize_cache()
service = ModelLoaderFactory.get_model_loader().load(
    "deepfake", folder, "deepfake_handler.py", None, len(photos), metrics_cache=metrics
)
batch = [
    {
        "requestId": str(i).encode(),
        "parameters": [{"name": "body", "value": Path(p).read_bytes(), "contentType": ""}],
    }
    for i, p in enumerate(photos)
]
context = service.context
context.request_processor, rows, context.request_ids = Service.retrieve_data_for_inference(batch)
answers = service._entry_point(rows, context)
import deepfake
print(json.dumps({"package": deepfake.__file__, "answers": [json.loads(a) for a in answers]}))
"""


def test_the_archive_is_built_anew_whenever_what_it_holds_is_another(tmp_path: Path) -> None:
    """Also where times say nothing: an older checkpoint in its place, a file that is gone."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("handler/deepfake_handler.py", "handler/model-config.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    source = tmp_path / "src" / "deepfake"
    source.mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (source / name).touch()
    (tmp_path / "saved_model.pth").write_text("first")
    (tmp_path / "small.pth").write_text("another")
    os.utime(tmp_path / "small.pth", (0, 0))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "ready").touch()

    def built(*options: str) -> bool:
        command = ["make", "archive", f"BIN={Path(sys.executable).parent}", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return "torch-model-archiver" in done.stdout

    assert built()
    assert not built()
    (tmp_path / "small.pth").rename(tmp_path / "saved_model.pth")
    assert built()
    (source / "b.py").unlink()
    assert built()
    assert built("MODEL_VERSION=2.0")
    assert not built("MODEL_VERSION=2.0")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def test_archive_holds_the_tree_and_nothing_else(unpacked: Path) -> None:
    held = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    library = {f"deepfake/{p.name}" for p in (ROOT / "src" / "deepfake").glob("*.py")}
    handler = {"deepfake_handler.py", "model-config.yaml", "saved_model.pth"}
    assert held == library | handler | {"MAR-INF/MANIFEST.json"}
    assert sha256(unpacked / "saved_model.pth") == sha256(ROOT / "saved_model.pth")
    for name in sorted(library):
        source = ROOT / "src" / name
        assert (unpacked / name).read_bytes() == source.read_bytes(), f"stale: {name}"


def test_archive_says_which_checkpoint_it_was_made_with(unpacked: Path) -> None:
    config = yaml.safe_load((unpacked / "model-config.yaml").read_text(encoding="utf-8"))
    assert config.pop("checkpointSha256") == sha256(ROOT / "saved_model.pth")
    assert config == yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())


def test_archive_gives_the_probabilities_of_the_library(unpacked: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(unpacked), str(ROOT / "handler" / "metrics.yaml")]
    done = subprocess.run(
        [*command, *map(str, PHOTOS)],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["package"]).is_relative_to(unpacked)

    pipeline = Pipeline.from_file(ROOT / "saved_model.pth")
    expected = pipeline.predict([p.read_bytes() for p in PHOTOS])
    assert len(result["answers"]) == len(expected)
    for photo, answer, verdict in zip(PHOTOS, result["answers"], expected, strict=True):
        assert isinstance(verdict, Verdict), photo
        library = verdict.to_json()
        assert answer["fake_probability"] == pytest.approx(library["fake_probability"], abs=1e-3)
        assert [f["box"] for f in answer["faces"]] == [f["box"] for f in library["faces"]]

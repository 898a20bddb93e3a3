"""What a program gets from the running service, for every form of input."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from deepfake.faces import FaceDetector, crop_face
from deepfake.pipeline import Pipeline
from tests.conftest import montage
from tests.deploy.files import exported, queries, selected
from tests.e2e.conftest import ROOT, Service, archived
from tests.openapi import validate

FIXTURES = ROOT / "tests" / "fixtures"
ASTRONAUT = (FIXTURES / "astronaut.jpg").read_bytes()


def encoded(format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(ASTRONAUT)).save(buffer, format_, **options)
    return buffer.getvalue()


def post(service: Service, **request: Any) -> requests.Response:
    return requests.post(service.url, timeout=60, **request)


@pytest.fixture(scope="session")
def reference() -> float:
    """P(fake) of the astronaut from the library."""
    answer = Pipeline.from_file(ROOT / "saved_model.pth").predict([ASTRONAUT])[0]
    return answer.to_json()["fake_probability"]


FORMS = {
    "raw body": {"data": ASTRONAUT},
    "raw body with a type": {"data": ASTRONAUT, "headers": {"Content-Type": "image/jpeg"}},
    "form field image": {"files": {"image": ASTRONAUT}},
    "form field data": {"files": {"data": ASTRONAUT}},
    "form field body": {"files": {"body": ASTRONAUT}},
    "JSON": {"json": {"image": base64.b64encode(ASTRONAUT).decode()}},
    "JSON, data URL": {
        "json": {"image": "data:image/jpeg;base64," + base64.b64encode(ASTRONAUT).decode()}
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_gets_the_librarys_answer(
    service: Service, form: str, reference: float
) -> None:
    answer = post(service, **FORMS[form])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    validate(body, "Verdict")
    assert body["fake_probability"] == pytest.approx(reference, abs=2e-3)
    assert body["image"] == {"width": 512, "height": 512}
    assert "crop" not in body["faces"][0]


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF"])
def test_every_image_format_is_read(service: Service, format_: str) -> None:
    body = post(service, data=encoded(format_)).json()
    assert len(body["faces"]) == 1, body


def test_the_photo_is_judged_upright(service: Service) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    lying = Image.open(io.BytesIO(ASTRONAUT)).crop((0, 0, 400, 512)).rotate(90, expand=True)
    buffer = io.BytesIO()
    lying.save(buffer, "JPEG", exif=exif, quality=95)
    body = post(service, data=buffer.getvalue()).json()
    assert body["image"] == {"width": 400, "height": 512}
    left, top, right, bottom = body["faces"][0]["box"]
    assert left < 224 < right
    assert top < 117 < bottom


@pytest.mark.parametrize(
    "request_",
    [
        {"data": ASTRONAUT, "headers": {"X-Crops": "true"}},
        {"files": {"image": ASTRONAUT, "crops": (None, "true")}},
        {"json": {"image": base64.b64encode(ASTRONAUT).decode(), "crops": True}},
    ],
    ids=["header", "form", "JSON"],
)
def test_crops_come_when_asked_for(service: Service, request_: dict[str, Any]) -> None:
    body = post(service, **request_).json()
    validate(body, "Verdict")
    crop = Image.open(io.BytesIO(base64.b64decode(body["faces"][0]["crop"])))
    assert crop.format == "JPEG"
    assert crop.width == crop.height


def test_the_answer_names_the_model(service: Service) -> None:
    model = post(service, data=ASTRONAUT).json()["model"]
    pipeline = Pipeline.from_file(ROOT / "saved_model.pth")
    checkpoint = pipeline.checkpoint
    assert model == {
        "name": "deepfake",
        "version": archived(ROOT / "model_store"),
        "checkpoint": checkpoint.sha256,
        "backbone": checkpoint.model.backbone_name,
        "runtime": pipeline.runtime.name,
    }


GREY = Image.new("RGB", (200, 200), "grey")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "empty_input": ({"data": b""}, 400),
    "bad_request": ({"json": {"photo": "x"}}, 400),
    "bad_base64": ({"json": {"image": "not base64!"}}, 400),
    "unsupported_format": ({"data": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 415),
    "broken_image": ({"data": ASTRONAUT[:5000]}, 422),
    "image_too_small": ({"data": png(Image.new("RGB", (8, 200)))}, 422),
    "no_face": ({"data": png(GREY)}, 422),
    "image_too_large": ({"data": ASTRONAUT + bytes(21 * 2**20)}, 413),
    "too_many_pixels": ({"data": png(Image.new("1", (8000, 8000)))}, 413),
}


@pytest.mark.parametrize("code", BAD)
def test_bad_input_gets_a_typed_error(service: Service, code: str) -> None:
    request_, status = BAD[code]
    answer = post(service, **request_)
    assert answer.status_code == status
    body = answer.json()
    validate(body, "Error")
    assert body["error"]["code"] == code
    assert body["error"]["status"] == status


def test_one_bad_image_leaves_the_others_of_its_batch_alone(
    service: Service, reference: float
) -> None:
    bodies = [ASTRONAUT, ASTRONAUT[:5000], ASTRONAUT, b"no image", png(GREY), ASTRONAUT] * 3
    before = batches(service)
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: post(service, data=body), bodies))
    assert [a.status_code for a in answers] == [200, 422, 200, 415, 422, 200] * 3
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json()["fake_probability"] == pytest.approx(reference, abs=2e-3)
    # Fewer forward calls than photos with faces: some of them shared one.
    assert batches(service) - before < 9


def batches(service: Service) -> float:
    """Forward calls so far; counted by and by, so what is on its way is waited for."""
    name = "deepfake_classify_seconds_count"
    counted, since = metric(service, name), time.monotonic()
    while time.monotonic() - since < 1:
        time.sleep(0.1)
        if (now := metric(service, name)) != counted:
            counted, since = now, time.monotonic()
    return counted


def metric(service: Service, name: str, **labels: str) -> float:
    """The sum of a metric over all label sets that hold ``labels``."""
    total = 0.0
    for line in requests.get(service.metrics, timeout=10).text.splitlines():
        found = re.match(rf"{name}{{(.*)}} (\S+)$", line)
        if found and all(f'{k}="{v}"' in found.group(1) for k, v in labels.items()):
            total += float(found.group(2))
    return total


def until_counted(service: Service, name: str, count: float) -> None:
    """TorchServe reads metrics from the worker's output, by and by."""
    deadline = time.monotonic() + 30
    while metric(service, name) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_metrics_count_verdicts_errors_and_stages(service: Service) -> None:
    seconds = [f"deepfake_{s}_seconds_count" for s in ("decode", "detect", "classify", "request")]
    earlier = metric(service, seconds[3])
    verdict = post(service, data=ASTRONAUT).json()["verdict"]
    until_counted(service, seconds[3], earlier + 1)
    counters = [*seconds, "deepfake_faces_per_image_count", "deepfake_fake_probability_count"]
    before = {name: metric(service, name) for name in counters}
    verdicts = metric(service, "deepfake_verdicts_total", label=verdict)
    errors = metric(service, "deepfake_errors_total", code="no_face")
    post(service, data=ASTRONAUT)
    post(service, data=png(GREY))
    until_counted(service, seconds[3], earlier + 3)
    assert metric(service, "deepfake_errors_total", code="no_face") == errors + 1
    assert metric(service, "deepfake_verdicts_total", label=verdict) == verdicts + 1
    assert metric(service, "deepfake_classify_seconds_count") == before[seconds[2]] + 1
    assert metric(service, "deepfake_decode_seconds_count") == before[seconds[0]] + 2
    for name in counters:
        assert metric(service, name) > before[name], name


def test_torchserve_has_the_series_that_alerts_and_dashboard_ask_for(service: Service) -> None:
    """Its own, with the labels that handler/metrics.yaml says; the detector's are counted above."""
    post(service, data=ASTRONAUT)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert post(service, data=b"%zz=x", headers=form).status_code == 500  # one has to be there
    until_counted(service, "Requests5XX", 1)
    text = requests.get(service.metrics, timeout=10).text
    there = {
        name: set(re.findall(r'(\w+)="', labels))
        for name, labels in re.findall(r"^(\w+){(.*)} \S+$", text, re.MULTILINE)
    }
    asked = set().union(*map(selected, queries())) & set(exported())
    own = {name: exported()[name][1] for name in asked if not name.startswith("deepfake_")}
    assert len(own) > 5
    assert {name: there.get(name) for name in own} == own


def test_several_faces_are_all_judged(service: Service) -> None:
    photos = [Image.open(p).resize((300, 300)) for p in sorted(FIXTURES.glob("t2i_*.jpg"))[:4]]
    scene = Image.new("RGB", (1200, 300))
    for i, photo in enumerate(photos):
        scene.paste(photo, (300 * i, 0))
    body = post(service, data=png(scene)).json()
    middles = [(face["box"][0] + face["box"][2]) / 2 for face in body["faces"]]
    assert {int(x // 300) for x in middles} == {0, 1, 2, 3}  # each photo has its face
    assert body["faces_found"] == len(body["faces"])
    assert body["fake_probability"] == max(f["fake_probability"] for f in body["faces"])


def test_a_crowd_in_a_grainy_photo_gets_all_its_crops(service: Service) -> None:
    """More in one answer than TorchServe takes from a worker by itself."""
    photo = Image.open(io.BytesIO(ASTRONAUT)).convert("RGB")
    face = crop_face(photo, FaceDetector()(photo)[0].box, margin=0.22)
    crowd = np.asarray(montage([face] * 32, columns=8, cell=532), dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 60, crowd.shape)
    blob = io.BytesIO()
    Image.fromarray((crowd + grain).clip(0, 255).astype(np.uint8)).save(blob, "JPEG", quality=90)
    answer = post(service, data=blob.getvalue(), headers={"X-Crops": "true"})
    assert answer.status_code == 200
    assert len(answer.content) > 6_553_500
    assert all(face["crop"] for face in answer.json()["faces"])


def workflow(path: Path, proof: Path) -> None:
    """An archive whose code, when TorchServe takes it, leaves a proof."""
    models = "{m: {url: deepfake.mar}, min-workers: 1, max-workers: 1, batch-size: 1}"
    named = {"workflowName": "w", "specFile": "w.yaml", "handler": "w.py"}
    with zipfile.ZipFile(path, "w") as archive:
        manifest = {"createdOn": "1", "archiverVersion": "1", "workflow": named}
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("w.yaml", f"models: {models}\ndag: {{m: []}}\n")
        archive.writestr("w.py", f"open({str(proof)!r}, 'w').close()\ndef m(d, c): return d\n")


def test_the_management_api_takes_no_code(service: Service, tmp_path: Path) -> None:
    """Any page in a browser of this machine could send these."""
    archive, proof = tmp_path / "w.war", tmp_path / "proof"
    workflow(archive, proof)
    for url in (archive.as_uri(), "https://models.example/w.war"):
        answer = requests.post(f"{service.management}/workflows", params={"url": url}, timeout=60)
        assert answer.status_code == 404
        assert "does not match any allowed URL" in answer.json()["message"]
        answer = requests.post(f"{service.management}/models", params={"url": url}, timeout=60)
        assert answer.status_code == 405
    assert not proof.exists()
    assert not (ROOT / "model_store" / "w.war").exists()
    assert requests.delete(f"{service.management}/models/deepfake", timeout=60).status_code == 405

"""Several photos in one form, samples, heat maps, and what can be taken home."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from frontend import preview
from frontend.views import MAX_PHOTOS, SAMPLES
from tests.conftest import ROOT
from tests.unit.backend import (  # noqa: F401 - the fixtures
    Backend,
    app,
    backend,
    client,
    no_form_token,
    nowhere,
    part,
    photo,
    text,
    typed,
    verdict,
)


def send(client: FlaskClient, *blobs: bytes, **fields: str) -> Any:
    files = [(io.BytesIO(blob), f"photo-{i}.jpg") for i, blob in enumerate(blobs)]
    return client.post("/", data={"image": files, **fields})


def articles(page: str) -> list[str]:
    return re.findall(r"<article.*?</article>", page, re.DOTALL)


def test_each_photo_of_a_form_gets_its_own_answer(client: FlaskClient, backend: Backend) -> None:
    answer = send(client, photo(), photo((64, 64)))
    assert answer.status_code == 200
    names = [part(article, r'<p class="file">(.*?)</p>') for article in articles(answer.text)]
    assert names == ["photo-0.jpg", "photo-1.jpg"]
    assert len(backend.seen) == 2


def test_a_photo_that_fails_leaves_the_others_alone(client: FlaskClient, backend: Backend) -> None:
    backend.refuse = b"bad"
    answer = send(client, photo(), b"bad photo", photo())
    assert answer.status_code == 200
    assert len(articles(answer.text)) == 2
    failed = part(answer.text, r'<section class="card error" data-code="no_face">(.*?)</section>')
    assert "photo-1.jpg No face found" in failed
    assert "What to do:" in failed
    alone = send(client, b"bad photo")
    assert alone.status_code == 422
    assert part(alone.text, "<title>(.*?)</title>").startswith("No face found")


def test_when_all_fail_the_status_says_so(nowhere: FlaskClient) -> None:
    answer = send(nowhere, photo(), photo())
    assert answer.status_code == 502
    assert answer.text.count('<section class="card error" data-code="backend_unreachable">') == 2


def test_a_busy_backend_says_when_to_come_again(client: FlaskClient, backend: Backend) -> None:
    backend.status, backend.body = 503, {"code": 503, "message": "?"}
    assert send(client, photo()).headers["Retry-After"] == "2"


def test_too_many_photos_are_refused_unseen(client: FlaskClient, backend: Backend) -> None:
    answer = send(client, *[b"x"] * (MAX_PHOTOS + 1))
    assert answer.status_code == 413
    assert "Too many photos at once" in answer.text
    assert backend.seen == []


def test_inputs_that_were_left_empty_do_not_count(client: FlaskClient, backend: Backend) -> None:
    """The field for the camera is sent along, with no name and no bytes."""
    data = {"image": [(io.BytesIO(photo()), "a.jpg"), (io.BytesIO(b""), "")]}
    assert len(articles(client.post("/", data=data).text)) == 1
    assert len(backend.seen) == 1


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_are_judged_as_any_photo(
    client: FlaskClient, backend: Backend, sample: str
) -> None:
    start = client.get("/").text
    assert f'name="sample" value="{sample}"' in start
    with client.get(f"/static/samples/{sample}.jpg") as shown:
        assert shown.status_code == 200
        blob = shown.data
    assert len(blob) < 40_000
    assert client.post("/", data={"sample": sample}).status_code == 200
    assert backend.seen[0][3] == blob


def test_only_samples_are_read_from_the_disk(client: FlaskClient) -> None:
    assert client.post("/", data={"sample": "../../README"}).status_code == 400


def download(page: str) -> tuple[str, dict[str, Any]]:
    found = re.search(r'download="([^"]+)"\s+href="data:application/json;base64,([^"]+)"', page)
    assert found
    return found[1], json.loads(base64.b64decode(found[2]))


def test_the_result_can_be_taken_home(client: FlaskClient, backend: Backend) -> None:
    blob = photo()
    digest = hashlib.sha256(blob).hexdigest()
    page = send(client, blob).text
    name, document = download(page)
    assert name == f"deepfake-{digest[:12]}.json"
    assert document["file"] == {"name": "photo-0.jpg", "sha256": digest, "bytes": len(blob)}
    age = datetime.now(UTC) - datetime.fromisoformat(document["time"])
    assert timedelta() <= age < timedelta(minutes=1)
    expected = dict(backend.body)
    expected["faces"] = [{k: v for k, v in f.items() if k != "crop"} for f in expected["faces"]]
    assert document["result"] == expected
    facts = part(page, r'<details class="facts">(.*?)</details>')
    for fact in (digest, "0123456789abcdef" * 4, "version 1.0", "UTC", f"{len(blob)} bytes"):
        assert fact in facts


def test_names_are_shown_as_text(client: FlaskClient) -> None:
    data = {"image": (io.BytesIO(photo()), "<b>x</b>.jpg")}
    page = client.post("/", data=data).text
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page
    assert download(page)[1]["file"]["name"] == "<b>x</b>.jpg"


def test_threshold_and_band_are_marked(client: FlaskClient, backend: Backend) -> None:
    backend.body = verdict(0.7) | {"threshold": 0.4, "uncertain_band": [0.25, 0.75]}
    page = send(client, photo()).text
    bar = re.search(r'<svg class="bar.*?</svg>', page, re.DOTALL)
    assert bar
    assert 'x1="40.0%"' in bar[0]
    assert '<circle cx="70.0%"' in bar[0]
    zone = re.search(r'class="zone uncertain"[^>]* x="25.0%"\s+width="50.0%"', bar[0])
    assert zone
    assert "uncertain from 25\u00a0% to 75\u00a0%; threshold 40\u00a0%" in bar[0]
    assert "Above 40 % counts as fake; from 25 % to 75 % it is too close to call." in text(page)
    backend.body = verdict(0.7) | {"uncertain_band": None}
    assert "Above 50 % counts as fake." in text(send(client, photo()).text)


HEAT = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_heat_maps_come_when_asked_for(client: FlaskClient, backend: Backend) -> None:
    page = send(client, photo()).text
    assert backend.seen[-1][0] == "/predictions/deepfake"
    assert "To see it, tick" in page
    for face in backend.body["faces"]:
        face["heat_map"] = HEAT
    page = send(client, photo(), heat="true").text
    assert backend.seen[-1][0] == "/explanations/deepfake"
    assert 'alt="Face 1, brightest where the network saw what speaks for fake"' in page
    words = text(page)
    assert "3 by 3 places" in words
    assert "no proof of what was changed" in words


@pytest.mark.parametrize(
    ("heat", "words"),
    [([[0.0, 0.0], [0.0, 0.0]], "No place stood out"), (None, "Only the eight faces")],
)
def test_a_face_without_a_heat_map_says_why(
    client: FlaskClient, backend: Backend, heat: Any, words: str
) -> None:
    backend.body = verdict(0.2, 0.9)
    backend.body["faces"][0]["heat_map"] = HEAT
    if heat:
        backend.body["faces"][1]["heat_map"] = heat
    assert words in text(send(client, photo(), heat="true").text)


def test_heat_is_drawn_over_its_place_in_the_crop() -> None:
    crop = base64.b64encode(photo((90, 90))).decode()
    uri = preview.heat_uri({"crop": crop, "heat_map": HEAT})
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        bright = np.asarray(image.convert("L"), dtype=float)
    side = bright.shape[0]
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert side / 3 < row < 2 * side / 3
    assert column > 2 * side / 3
    assert bright.max() > bright.min() + 60


def test_the_api_explains(client: FlaskClient, backend: Backend) -> None:
    answer = client.post("/api/explain", data=photo(), content_type="image/jpeg")
    assert answer.json == backend.body
    assert backend.seen[-1][:3] == ("/explanations/deepfake", "false", "image/jpeg")


def test_samples_are_the_fixtures_whose_licence_is_named() -> None:
    folder = ROOT / "frontend" / "static" / "samples"
    for sample in SAMPLES[1:]:
        fixture = ROOT / "tests" / "fixtures" / f"{sample}.jpg"
        assert (folder / f"{sample}.jpg").read_bytes() == fixture.read_bytes()
    assert {p.stem for p in folder.glob("*.jpg")} == set(SAMPLES)


def test_typed_errors_keep_their_code(client: FlaskClient, backend: Backend) -> None:
    backend.status, backend.body = 422, typed("no_face", 422)
    assert "<code>no_face</code>" in send(client, photo()).text

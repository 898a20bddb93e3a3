"""The page and its JSON route in front of the real TorchServe."""

from __future__ import annotations

import re

import requests

from frontend.text import percent
from tests.e2e.conftest import ROOT, Service, upload

ASTRONAUT = (ROOT / "tests" / "fixtures" / "astronaut.jpg").read_bytes()

HEADLINES = {
    "Fake": "Likely fake",
    "Uncertain": "Uncertain",
    "Real": "No clear sign of manipulation found",
}


def words(html: str) -> str:
    """A page as a person reads it."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_photo_gets_its_verdict_in_words_and_pictures(service: Service) -> None:
    direct = requests.post(service.url, data=ASTRONAUT, timeout=60).json()
    page = upload(service, ASTRONAUT)
    assert page.status_code == 200
    headline = re.search(r'<h2 class="headline">(.*?)</h2>', page.text, re.DOTALL)
    assert headline
    assert words(headline[1]).strip() == HEADLINES[direct["verdict"]]
    assert f"Probability of fake: {words(percent(direct['fake_probability']))}" in words(page.text)
    assert "not a proof" in words(page.text)
    assert page.text.count("data:image/jpeg;base64,") == 2, "the photo and its face"
    assert 'viewBox="0 0 512 512"' in page.text
    assert direct["model"]["checkpoint"][:12] in page.text


def test_the_json_route_gives_the_services_answer(service: Service) -> None:
    direct = requests.post(service.url, data=ASTRONAUT, timeout=60).json()
    form = requests.post(f"{service.page}/api/detect", files={"image": ASTRONAUT}, timeout=60)
    raw = requests.post(f"{service.page}/api/detect", data=ASTRONAUT, timeout=60)
    for answer in (form, raw):
        assert answer.status_code == 200
        assert answer.json().keys() == direct.keys()
        assert answer.json()["label"] == direct["label"]
        assert answer.json()["verdict"] == direct["verdict"]
    crops = requests.post(f"{service.page}/api/detect?crops=true", data=ASTRONAUT, timeout=60)
    assert "crop" in crops.json()["faces"][0]
    assert "crop" not in raw.json()["faces"][0]


def test_heat_maps_come_through_both_doors(service: Service) -> None:
    url = service.url.replace("/predictions/", "/explanations/")
    direct = requests.post(url, data=ASTRONAUT, timeout=60).json()
    heat = direct["faces"][0]["heat_map"]
    assert len(heat) == len(heat[0]) == 7
    assert max(map(max, heat)) == 1
    form = {"files": {"image": ASTRONAUT}, "timeout": 60}
    assert requests.post(f"{service.page}/api/explain", **form).json()["faces"] == direct["faces"]
    page = upload(service, ASTRONAUT, heat="true")
    assert page.text.count("data:image/jpeg;base64,") == 3, "photo, face and its heat map"
    assert "7 by 7 places" in words(page.text)


def test_errors_come_in_plain_words_with_their_status(service: Service) -> None:
    page = upload(service, b"not a photo")
    assert page.status_code == 415
    assert "What to do" in words(page.text)
    route = requests.post(f"{service.page}/api/detect", data=ASTRONAUT[:4000], timeout=60)
    assert route.status_code == 422
    assert route.json()["error"]["code"] == "broken_image"


def test_health_and_readiness(service: Service) -> None:
    assert requests.get(f"{service.page}/healthz", timeout=10).ok
    assert requests.get(f"{service.page}/readyz", timeout=10).ok

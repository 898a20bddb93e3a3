"""TorchServe's handler: requests -> bytes -> pipeline -> JSON, and nothing else.

TorchServe wants exactly one class in this module. It calls ``initialize`` once per worker and
``handle`` with a batch of requests.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from deepfake.checkpoint import DEFAULT_POINT, verify
from deepfake.cpus import usable
from deepfake.errors import BadBase64, BadRequest, DeepfakeError, EmptyInput
from deepfake.pipeline import Pipeline, fault
from deepfake.verdict import Verdict

CROPS_HEADER = "x-crops"
ID_HEADER = "x-request-id"
# TorchServe sets it on every request, last: "True" on /explanations/, "False" on /predictions/.
# It keeps names that differ in case apart, so this spelling is its own.
EXPLAIN_HEADER = "explain"
IMAGE_FIELDS = ("data", "body", "image")  # "body" is what TorchServe calls a raw request body
SPACE = b" \t\r\n\f\v"  # which base64 may be wrapped with
HISTOGRAM = {
    "decode": "deepfake_decode_seconds",
    "detect": "deepfake_detect_seconds",
    "classify": "deepfake_classify_seconds",
}

Asked = tuple[bytes | DeepfakeError, bool, bool]
log = logging.getLogger(__name__)


class DeepfakeHandler:
    """Serves one checkpoint; see docs/openapi.yaml for what goes in and comes out."""

    def initialize(self, context: Any) -> None:
        """Load the checkpoint out of the archive, choose device and threads, warm up."""
        try:
            self._load(context)
        except Exception as error:
            # Said now, and with time to be read: TorchServe kills a worker that has closed its
            # socket, which it does before it prints what it died of, and reads no more of it.
            log.error("%s: %s", type(error).__name__, error)
            time.sleep(0.5)
            raise

    def _load(self, context: Any) -> None:
        folder = Path(context.system_properties["model_dir"])
        config = context.model_yaml_config or {}
        workers = int(config.get("maxWorkers", 1))
        torch.set_num_threads(max(1, usable() // workers))
        gpu = context.system_properties.get("gpu_id")
        device = f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu"
        options = config.get("handler") or {}
        checkpoint = folder / context.manifest["model"]["serializedFile"]
        _check(checkpoint, config)
        self.pipeline = Pipeline.from_file(
            checkpoint,
            device,
            str(options.get("operatingPoint", DEFAULT_POINT)),
            str(options.get("runtime", "auto")),
        )
        self.pipeline.warm_up()
        self.model = {
            "name": context.manifest["model"]["modelName"],
            "version": context.manifest["model"]["modelVersion"],
            "checkpoint": self.pipeline.checkpoint.sha256,
            "backbone": self.pipeline.model.backbone_name,
            "runtime": self.pipeline.runtime.name,
        }
        log.info("ready: %s, %d threads", self.pipeline.runtime.name, torch.get_num_threads())

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[Any]:
        """Answer a batch: one JSON document and one HTTP status for each request."""
        started = time.perf_counter()
        asked = [_read(row, context.get_all_request_header(i)) for i, row in enumerate(data)]
        answers = self.pipeline.predict(
            [photo for photo, *_ in asked],
            observe=lambda stage, seconds: _observe(context, HISTOGRAM[stage], seconds),
        )
        answers = [
            self._explained(context, answer) if explain else answer
            for answer, (*_, explain) in zip(answers, asked, strict=True)
        ]
        written = [
            self._written(answer, crops)
            for answer, (_, crops, _) in zip(answers, asked, strict=True)
        ]
        seconds = time.perf_counter() - started
        for i, ((answer, _), (_, _, explain)) in enumerate(zip(written, asked, strict=True)):
            _set_headers(context, i, answer)
            _measure(context, answer, verdicts=not explain)
            _observe(context, "deepfake_request_seconds", seconds)
            _log_request(context, i, answer, seconds, len(answers))
        return [document for _, document in written]

    def _explained(self, context: Any, answer: Verdict | DeepfakeError) -> Verdict | DeepfakeError:
        if isinstance(answer, DeepfakeError):
            return answer
        started = time.perf_counter()
        answer = self.pipeline.explain(answer)
        _observe(context, "deepfake_explain_seconds", time.perf_counter() - started)
        return answer

    def _written(
        self, answer: Verdict | DeepfakeError, crops: bool
    ) -> tuple[Verdict | DeepfakeError, str]:
        """An answer and its JSON; where it cannot be written, the error that this means."""
        try:
            if isinstance(answer, DeepfakeError):
                return answer, json.dumps(answer.to_json())
            return answer, json.dumps(answer.to_json(crops) | {"model": self.model})
        except Exception as error:
            failed = fault(error)
            return failed, json.dumps(failed.to_json())


def _set_headers(context: Any, index: int, answer: Verdict | DeepfakeError) -> None:
    context.set_response_content_type(index, "application/json")
    context.set_response_header(index, "Cache-Control", "no-store")
    if isinstance(answer, DeepfakeError):
        context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)


def _measure(context: Any, answer: Verdict | DeepfakeError, verdicts: bool) -> None:
    """``verdicts``: not those of explanations: the page asks for them when it has the verdict."""
    if isinstance(answer, DeepfakeError):
        _count(context, "deepfake_errors_total", answer.code)
    elif verdicts:
        _count(context, "deepfake_verdicts_total", answer.worst.verdict)
        _observe(context, "deepfake_faces_per_image", answer.faces_found)
        _observe(context, "deepfake_fake_probability", answer.worst.fake_probability)


def _log_request(
    context: Any, index: int, answer: Verdict | DeepfakeError, seconds: float, batch: int
) -> None:
    """One line of JSON, which deploy/log4j2.xml keeps in a file of its own.

    The id is the client's where it is well formed, since the page and the browser know that one;
    ``torchserve_id`` is what TorchServe itself answers in X-Request-ID. Nothing else of the client
    is in it.
    """
    headers = context.get_all_request_header(index)
    given = next((str(v) for k, v in headers.items() if k.lower() == ID_HEADER), "")
    own = context.get_request_id(index)
    error = answer if isinstance(answer, DeepfakeError) else None
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "INFO",
        "event": "request",
        "request_id": given if re.fullmatch(r"[A-Za-z0-9._-]{8,64}", given) else own,
        "torchserve_id": own,
        "status": error.status if error else 200,
        "code": error.code if error else None,
        "ms": round(1000 * seconds, 1),
        "batch": batch,
    }
    log.info(json.dumps(line))


def _check(checkpoint: Path, config: dict[str, Any]) -> None:
    """Compare the file with the digest written down in the archive, and with the one that whoever
    runs the service has set, which nobody who can only exchange archives can reach."""
    for digest in (config.get("checkpointSha256"), os.environ.get("DEEPFAKE_CHECKPOINT_SHA256")):
        if digest:
            verify(checkpoint, str(digest))


def _read(row: dict[str, Any], headers: dict[str, Any]) -> Asked:
    """The photo of one request, or the error it means; whether crops and heat maps are wanted.

    With a raw body the options come as headers: TorchServe drops a prediction's query string.
    """
    header = next((v for k, v in headers.items() if k.lower() == CROPS_HEADER), False)
    try:
        photo = _photo(row, headers)
        crops = _flag(row.get("crops", header))
        return photo, crops, headers.get(EXPLAIN_HEADER) == "True"
    except DeepfakeError as error:
        return error, False, False
    except Exception as error:  # no memory for its base64, say: the others have theirs
        return fault(error), False, False


def _photo(row: dict[str, Any], headers: dict[str, Any]) -> bytes:
    value = next((row[name] for name in IMAGE_FIELDS if row.get(name)), None)
    if value is None:
        raise EmptyInput(
            "The request holds no image; send the bytes of a photo, as the whole body or in the "
            'field "image" of a form.'
        )
    if isinstance(value, dict):  # TorchServe has parsed a JSON body already
        if "crops" in value:
            row["crops"] = value["crops"]
        return _from_json(value)
    if isinstance(value, bytes | bytearray):
        kind = next((str(v) for k, v in headers.items() if k.lower() == "content-type"), "")
        # TorchServe hands on what it cannot parse; a photo under a wrong type is still a photo.
        if "json" in kind.lower() and bytes(value[:64]).lstrip()[:1] in (b"{", b"[", b'"'):
            raise BadRequest("The body is not valid JSON.")
        return bytes(value)
    raise BadRequest('JSON must be an object such as {"image": "<base64>", "crops": false}.')


def _from_json(body: dict[str, Any]) -> bytes:
    text = body.get("image")
    if not isinstance(text, str) or not text:
        raise BadRequest('The JSON field "image" must hold the photo as base64 text.')
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text.encode("ascii").translate(None, SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadBase64('The JSON field "image" is not valid base64.') from error


def _flag(value: Any) -> bool:
    """An option from JSON (a boolean) or from a header or a form (text)."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else str(value)
    if text.strip().lower() in ("1", "true", "yes"):
        return True
    if text.strip().lower() in ("", "0", "false", "no"):
        return False
    raise BadRequest('The option "crops" must be true or false.')


def _count(context: Any, name: str, dimension: str) -> None:
    metric = context.metrics.get_metric(name)
    metric.add_or_update(1, [dimension, *_dimensions(context)])


def _observe(context: Any, name: str, value: float) -> None:
    metric = context.metrics.get_metric(name, _metric_types().HISTOGRAM)
    metric.add_or_update(value, _dimensions(context))


def _dimensions(context: Any) -> list[str]:
    return [context.model_name, "Model"]


def _metric_types() -> Any:
    from ts.metrics.metric_type_enum import MetricTypes  # only there inside TorchServe

    return MetricTypes

"""What the frontend says to TorchServe, and when it says it again."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import requests

from frontend import tokens
from frontend.errors import BackendError
from frontend.logs import ID_HEADER, log, request_id
from frontend.slots import waited

CONNECT_TIMEOUT = 5.0  # seconds; also for a look at the management API
RETRY_AFTER = 2  # seconds; the queue is short, so it is soon served
RESTART_AFTER = 10  # seconds in which a worker, or TorchServe, is usually back
BACK_OFF = (0.5, 1.5)  # seconds before the second try, drawn so that not all come back at once
LONGEST_BACK_OFF = 5.0  # seconds, whatever Retry-After says: somebody is waiting
AGAIN = ("backend_busy", "backend_unreachable", "backend_died")
"""Judging a photo changes nothing, so it may be asked for twice. After a timeout there is no time
left, and a typed error would only come again."""


class Backend(NamedTuple):
    """Where one TorchServe listens, and the connections to it."""

    predictions: str
    explanations: str
    ping: str
    model: str | None
    session: requests.Session


class Question(NamedTuple):
    """A photo, and what is asked about it; see ``Client.detect``."""

    blob: bytes
    content_type: str
    crops: bool
    explain: bool


class Client:
    """One model of one TorchServe.

    Args:
        url: the inference address, such as http://127.0.0.1:8080.
        management_url: the management address, such as http://127.0.0.1:8081; empty where it cannot
            be reached from here.
        model: the name under which the model is registered.
        timeout: longest wait for an answer, in seconds, a second try included.
        auth: puts TorchServe's tokens on the requests; None where it asks for none.
        switch: a JSON file with other addresses, ``{"torchserve": ..., "management": ...,
            "token_file": ...}``, which win as soon as they change: how a new version takes over
            without a restart. Where it says ``{"stopping": true}``, nothing new is begun.
    """

    def __init__(
        self,
        url: str,
        management_url: str,
        model: str,
        timeout: float,
        auth: requests.auth.AuthBase | None = None,
        switch: Path | None = None,
    ) -> None:
        self._model = quote(model, safe="")
        self._timeout = timeout
        self._switch, self._switched = switch, ""
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._backend = self._at(url, management_url, auth)

    def detect(
        self, blob: bytes, content_type: str, crops: bool = True, explain: bool = False
    ) -> dict[str, Any]:
        """Have one photo judged, and once more if the detector was busy, gone or died.

        Args:
            blob: the whole image file. It is posted as it is: as multipart, TorchServe's own
                parser would have to take it apart again.
            content_type: sent along with it.
            crops: ask for each face's crop as base64 JPEG.
            explain: ask for heat maps of the faces as well; it takes longer.

        Returns:
            The ``Verdict`` of docs/openapi.yaml.

        Raises:
            BackendError: the photo was refused, or there was no answer.
        """
        question = Question(blob, content_type, crops, explain)
        deadline = time.monotonic() + self._timeout - waited.get()
        try:
            return self._ask(question, deadline)
        except BackendError as error:
            if error.code not in AGAIN:
                raise
            pause = min(max(random.uniform(*BACK_OFF), error.wait), LONGEST_BACK_OFF)
            if time.monotonic() + pause >= deadline:
                raise
            log.warning("asking again", extra={"fields": {"code": error.code}})
            time.sleep(pause)
            if error.code != "backend_died":
                return self._ask(question, deadline)
            return self._ask_alone(question, deadline, error)

    def ready(self) -> bool:
        """Whether a worker of the model is ready to answer; without a management address, whether
        TorchServe says of itself that it is well, which it does while its worker still starts."""
        timeout = min(self._timeout, CONNECT_TIMEOUT)
        try:
            backend = self.backend()
            url = backend.model or backend.ping
            response = backend.session.get(url, timeout=timeout, allow_redirects=False)
            if backend.model is None:
                return response.status_code == 200
            versions = response.json() if response.ok else []
            workers = [worker for version in versions for worker in version["workers"]]
            return any(worker["status"] == "READY" for worker in workers)
        except (BackendError, requests.RequestException, KeyError, TypeError):
            return False

    def backend(self) -> Backend:
        """The TorchServe to ask now; BackendError when the service is stopping."""
        if self._switch is not None:
            try:
                text = self._switch.read_text(encoding="utf-8")
            except OSError:
                return self._backend
            with self._lock:
                if text != self._switched:
                    to, old = json.loads(text), self._backend
                    if to.get("stopping"):
                        message = "The service is being restarted."
                        raise BackendError("stopping", message, 503, RESTART_AFTER)
                    auth = tokens.from_config(to.get("token_file"), to["management"])
                    self._backend = self._at(to["torchserve"], to["management"], auth)
                    self._switched = text
                    old.session.close()  # what is under way there goes on to its end
        return self._backend

    def _at(self, url: str, management_url: str, auth: requests.auth.AuthBase | None) -> Backend:
        session = requests.Session()
        session.auth = auth
        # A proxy set in the environment must not get to see people's photos.
        session.trust_env = False
        # A connection that is kept would go on to lead to a pod that is about to stop, and none to
        # a new one.
        session.headers["Connection"] = "close"
        return Backend(
            f"{url.rstrip('/')}/predictions/{self._model}",
            f"{url.rstrip('/')}/explanations/{self._model}",
            f"{url.rstrip('/')}/ping",
            f"{management_url.rstrip('/')}/models/{self._model}" if management_url else None,
            session,
        )

    def _ask_alone(
        self, question: Question, deadline: float, error: BackendError
    ) -> dict[str, Any]:
        """The second try of a photo in whose batch the worker died.

        One of them may be what killed it. Together they would form the same batch again and all
        be lost; one after the other, only the guilty one is.
        """
        if not self._one_at_a_time.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise error
        try:
            if time.monotonic() + 1 >= deadline:
                raise error
            return self._ask(question, deadline)
        finally:
            self._one_at_a_time.release()

    def _ask(self, question: Question, deadline: float) -> dict[str, Any]:
        patience = deadline - time.monotonic()
        if patience <= 0:  # nobody waits for it any more
            raise BackendError("backend_timeout", "No answer came in time.", 504)
        response = self._post(question, patience)
        answer = _json(response)
        if response.status_code == 200 and "faces" in answer:
            return answer
        raise _error(response, answer.get("error"))

    def _post(self, question: Question, patience: float) -> requests.Response:
        backend = self.backend()
        headers = {
            "Content-Type": question.content_type,
            "X-Crops": str(question.crops).lower(),
        }
        if request_id.get():
            headers[ID_HEADER] = request_id.get()
        try:
            return backend.session.post(
                backend.explanations if question.explain else backend.predictions,
                data=question.blob,
                headers=headers,
                timeout=(min(patience, CONNECT_TIMEOUT), patience),
                allow_redirects=False,
            )
        except requests.Timeout as error:
            raise BackendError("backend_timeout", "No answer came in time.", 504) from error
        except requests.ConnectionError as error:
            raise BackendError(
                "backend_unreachable", "The detector does not answer.", 502, RESTART_AFTER
            ) from error
        except requests.RequestException as error:
            raise _failed() from error


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error(response: requests.Response, typed: object) -> BackendError:
    """The error that an answer other than a verdict stands for.

    ``typed`` is the answer's ``error``, if it came from the model's handler. TorchServe's own
    errors (full queue, dead worker, unknown model, body too long) have none.
    """
    status = response.status_code
    if isinstance(typed, dict) and {"code", "message"} <= typed.keys() and status >= 400:
        after = RETRY_AFTER if status == 503 else None
        return BackendError(str(typed["code"]), str(typed["message"]), status, after)
    if status == 503:
        message = "Too many photos are waiting, or the detector is still starting."
        return BackendError("backend_busy", message, 503, RETRY_AFTER, _wait(response))
    if status == 413:
        return BackendError("image_too_large", "The file has too many bytes.", 413)
    if status in (500, 507):  # TorchServe's words for a worker that hung, and for one that died
        message = "The detector stopped while it looked at the photo."
        return BackendError("backend_died", message, 502, RESTART_AFTER)
    return _failed()


def _wait(response: requests.Response) -> float:
    """Seconds that the server asks us to wait, 0 where it does not say."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _failed() -> BackendError:
    return BackendError("backend_failed", "The detector gave no usable answer.", 502)

"""What the frontend says to TorchServe."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import requests

from frontend.errors import BackendError

CONNECT_TIMEOUT = 5.0  # seconds; also for a look at the management API
RETRY_AFTER = 2  # seconds; the queue is short, so it is soon served


class Client:
    """One model of one TorchServe.

    Args:
        url: the inference address, such as http://127.0.0.1:8080.
        management_url: the management address, such as http://127.0.0.1:8081.
        model: the name under which the model is registered.
        timeout: longest wait for an answer, in seconds.
        auth: puts TorchServe's tokens on the requests; None where it asks for none.
    """

    def __init__(
        self,
        url: str,
        management_url: str,
        model: str,
        timeout: float,
        auth: requests.auth.AuthBase | None = None,
    ) -> None:
        name = quote(model, safe="")
        self._predictions = f"{url.rstrip('/')}/predictions/{name}"
        self._model = f"{management_url.rstrip('/')}/models/{name}"
        self._timeout = timeout
        self._session = requests.Session()
        # A proxy set in the environment must not get to see people's photos.
        self._session.trust_env = False
        self._session.auth = auth

    def detect(self, blob: bytes, content_type: str, crops: bool = True) -> dict[str, Any]:
        """Have one photo judged.

        Args:
            blob: the whole image file. It is posted as it is: as multipart, TorchServe's own
                parser would have to take it apart again.
            content_type: sent along with it.
            crops: ask for each face's crop as base64 JPEG.

        Returns:
            The ``Verdict`` of docs/openapi.yaml.

        Raises:
            BackendError: the photo was refused, or there was no answer.
        """
        response = self._post(blob, content_type, crops)
        answer = _json(response)
        if response.status_code == 200 and "faces" in answer:
            return answer
        raise _error(response.status_code, answer.get("error"))

    def ready(self) -> bool:
        """Whether a worker of the model is ready to answer."""
        timeout = min(self._timeout, CONNECT_TIMEOUT)
        try:
            response = self._session.get(self._model, timeout=timeout, allow_redirects=False)
            versions = response.json() if response.ok else []
            workers = [worker for version in versions for worker in version["workers"]]
            return any(worker["status"] == "READY" for worker in workers)
        except (requests.RequestException, KeyError, TypeError):
            return False

    def _post(self, blob: bytes, content_type: str, crops: bool) -> requests.Response:
        try:
            return self._session.post(
                self._predictions,
                data=blob,
                headers={"Content-Type": content_type, "X-Crops": str(crops).lower()},
                timeout=(min(self._timeout, CONNECT_TIMEOUT), self._timeout),
                allow_redirects=False,
            )
        except requests.Timeout as error:
            raise BackendError("backend_timeout", "No answer came in time.", 504) from error
        except requests.ConnectionError as error:
            raise BackendError(
                "backend_unreachable", "The detector does not answer.", 502
            ) from error
        except requests.RequestException as error:
            raise _failed() from error


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error(status: int, typed: object) -> BackendError:
    """The error that an answer other than a verdict stands for.

    ``typed`` is the answer's ``error``, if it came from the model's handler. TorchServe's own
    errors (full queue, dead worker, unknown model, body too long) have none.
    """
    if isinstance(typed, dict) and {"code", "message"} <= typed.keys() and status >= 400:
        return BackendError(str(typed["code"]), str(typed["message"]), status)
    if status == 503:
        message = "Too many photos are waiting, or the detector is still starting."
        return BackendError("backend_busy", message, 503, RETRY_AFTER)
    if status == 413:
        return BackendError("image_too_large", "The file has too many bytes.", 413)
    return _failed()


def _failed() -> BackendError:
    return BackendError("backend_failed", "The detector gave no usable answer.", 502)

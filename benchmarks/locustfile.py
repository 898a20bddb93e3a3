"""One client that sends the same photo again as soon as it is answered."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from locust import FastHttpUser, task


class Client(FastHttpUser):
    """From the environment: PHOTO (a file), ROUTE, and JSON_FIELD, if it goes as base64 in JSON."""

    body = Path(os.environ["PHOTO"]).read_bytes()
    content_type = "image/jpeg"
    if field := os.environ.get("JSON_FIELD"):
        body = json.dumps({field: base64.b64encode(body).decode()}).encode()
        content_type = "application/json"
    connection_timeout = network_timeout = 120.0

    @task
    def detect(self) -> None:
        headers = {"Content-Type": self.content_type}
        self.client.post(os.environ["ROUTE"], data=self.body, headers=headers, name="detect")

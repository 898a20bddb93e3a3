"""One client that sends the same photo again as soon as it is answered."""

from __future__ import annotations

import os
from pathlib import Path

from locust import FastHttpUser, task


class Client(FastHttpUser):
    """The photo and the route come in the environment: PHOTO (a file) and ROUTE."""

    photo = Path(os.environ["PHOTO"]).read_bytes()
    connection_timeout = network_timeout = 120.0

    @task
    def detect(self) -> None:
        headers = {"Content-Type": "image/jpeg"}
        self.client.post(os.environ["ROUTE"], data=self.photo, headers=headers, name="detect")

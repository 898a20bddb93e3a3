"""A photo's bytes, wherever it lies.

Not in score.py, which is __main__ when it runs: a worker could not find what is cached there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from deepfake.errors import DataError, DeepfakeError, ImageTooLarge
from deepfake.images import MAX_BYTES


def content_of(path: str) -> bytes | DeepfakeError:
    """The file's content; any address that Arrow knows (a path, s3://, gs://, hdfs://)."""
    try:
        system, name = _located(path)
        with system.open_input_stream(name) as file:
            content = bytes(file.read(MAX_BYTES + 1))  # never all of what may be a film
    except (OSError, pa.ArrowException) as error:
        return DataError(f"The file cannot be read: {type(error).__name__}.")
    if len(content) > MAX_BYTES:
        limit = MAX_BYTES // 2**20
        return ImageTooLarge(f"The file is larger than {limit} MB; make the photo smaller.")
    return content


def _located(path: str) -> tuple[Any, str]:
    """The file system of an address, and the name there."""
    scheme, is_address, rest = path.partition("://")
    if not is_address:
        return fs.LocalFileSystem(), path
    # Names have spaces, letters and # that an address may not have; what is escaped is meant so,
    # and ? begins the store's options.
    place, _, options = rest.partition("?")
    host, _, name = place.partition("/")
    system, root = _store(f"{scheme}://{host}/?{options}" if options else f"{scheme}://{host}/")
    return system, f"{root.rstrip('/')}/{unquote(name)}"


@lru_cache(maxsize=64)
def _store(address: str) -> tuple[Any, str]:
    """The file system of a store and the name of its root: one connection for all its photos."""
    found: tuple[Any, str] = fs.FileSystem.from_uri(address)
    return found

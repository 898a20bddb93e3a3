"""Who may ask for what, decided before a body is read: hosts, sites, rates, keys, forms."""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import limits
from flask import Flask, Response, current_app, g, request
from flask_limiter import Limiter, RateLimitExceeded
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.middleware.proxy_fix import ProxyFix

from frontend.errors import CrossSite, FormExpired, KeyRevoked, NoKey, TooMany, WrongHost
from frontend.keys import Key, Keys

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it, browsers hide from us that our own form comes from our own page.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), "
        "microphone=(), payment=(), usb=()"
    ),
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
NAME = r"[a-zA-Z0-9._-]+|[0-9a-fA-F:]+"  # of a host; the second is an IPv6 address
KEYS = "deepfake-keys"  # of app.extensions

csrf = CSRFProtect()


def register(app: Flask) -> None:
    """Check all that a request's headers tell; the order of these lines is that of the checks."""
    hops = int(app.config["PROXIES"])
    if hops:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops)  # type: ignore[method-assign]
    # As text: a key of digits only would come out of the environment as a number.
    app.config["SECRET_KEY"] = str(app.config["SECRET_KEY"] or secrets.token_hex(32))
    if app.config["API_KEYS"]:
        app.extensions[KEYS] = Keys(Path(app.config["API_KEYS"]))
    app.config["HOSTS"] = _names(app.config["HOSTS"])
    app.before_request(_check_host)
    app.before_request(_check_site)
    _limit(app)
    app.before_request(_check_key)
    app.after_request(_add_headers)


def register_forms(app: Flask) -> None:
    """Check the forms' tokens; for that a form is read, so there has to be room for it."""
    app.config["WTF_CSRF_CHECK_DEFAULT"] = False  # _check_form decides what is a form
    csrf.init_app(app)
    app.before_request(_check_form)


def _names(hosts: Any) -> list[str]:
    """The setting HOSTS as a list of names in small letters, as a browser sends them.

    Raises:
        ValueError: it is anything else; compared as it stands, it would let in others, or nobody.
    """
    if hosts in (None, ""):
        return []
    names = [hosts] if isinstance(hosts, str) else hosts
    if isinstance(names, list | tuple) and all(re.fullmatch(NAME, str(name)) for name in names):
        return [str(name).lower() for name in names]
    message = f'HOSTS has to be names without ports, as ["photos.example.org"]; it is {hosts!r}.'
    raise ValueError(message)


def _check_host() -> None:
    """Refuse names that are not ours: one that somebody else's name server points here would make
    their page ours to the browser (DNS rebinding). Probes ask by address."""
    hosts, probe = current_app.config["HOSTS"], request.path in ("/healthz", "/readyz")
    if hosts and not probe and _parts(f"//{request.host}").hostname not in hosts:
        raise WrongHost


def _parts(url: str) -> SplitResult:
    """Of an address; all empty when it is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _check_site() -> None:
    """Refuse what a browser sends on behalf of another site's page.

    Browsers say so in Sec-Fetch-Site, or where they trust the connection too little for that, in
    Origin. Programs send neither.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or _parts(origin).netloc == request.host
    if not own:
        raise CrossSite


def _limit(app: Flask) -> None:
    rates = {kind: app.config[name] for kind, name in _RATES.items()}
    if not any(rates.values()):
        return
    for rate in filter(None, rates.values()):
        limits.parse_many(str(rate))  # ValueError: Flask-Limiter would go on without a limit
    limiter = Limiter(
        _who,
        app=app,
        application_limits=[_rate],
        storage_uri=str(app.config["RATE_STORAGE"]),
        storage_options=_storage_options(str(app.config["RATE_STORAGE"])),
        # Redis gone: each process counts for itself until it is back.
        in_memory_fallback_enabled=True,
    )
    limiter.request_filter(lambda: request.method in SAFE_METHODS or not rates[_kind()])
    app.register_error_handler(RateLimitExceeded, lambda error: _too_many(limiter))


_RATES = {"key": "KEY_RATE", "address": "RATE"}


def _storage_options(uri: str) -> dict[str, str | int]:
    # A Redis that does not answer must not hold up the page, in seconds.
    return {"socket_timeout": 1, "socket_connect_timeout": 1} if uri.startswith("redis") else {}


def _too_many(limiter: Limiter) -> Response:
    limit = limiter.current_limit
    wait = max(1, int(limit.reset_at - time.time())) if limit else 1
    return cast(Response, current_app.handle_user_exception(TooMany(wait)))


def _rate() -> str:
    return str(current_app.config[_RATES[_kind()]])


def _kind() -> str:
    key = _key()
    return "key" if key is not None and key.revoked is None else "address"


def _who() -> str:
    """Whose allowance this request uses: that of its key, else of its address."""
    key = _key()
    return f"key {key.name}" if key and not key.revoked else f"address {_address()}"


def _address() -> str:
    """The client's address; of IPv6 the first 64 bits, since one client has all the others."""
    text = request.remote_addr or "unknown"
    with_port = re.fullmatch(r"\[(.+)\](?::\d+)?|([^:]+):\d+", text)  # as some proxies send it
    try:
        address = ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped  # from a proxy that listens on both
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _key() -> Key | None:
    """The key that this request shows, revoked or not; looked up once."""
    if "key" not in g:
        keys = cast("Keys | None", current_app.extensions.get(KEYS))
        shown = request.authorization
        bearer = shown is not None and shown.type == "bearer" and shown.token
        g.key = keys.find(str(bearer)) if keys and bearer else None
    return cast("Key | None", g.key)


def _check_key() -> None:
    if KEYS not in current_app.extensions or not _for_programs():
        return
    key = _key()
    if key is None:
        raise NoKey
    if key.revoked:
        raise KeyRevoked


def _check_form() -> None:
    """Forms carry the token of the page that they came with."""
    if request.method in SAFE_METHODS or _for_programs() or request.routing_exception:
        return
    if not current_app.config["WTF_CSRF_ENABLED"]:
        return
    try:
        csrf.protect()
    except CSRFError as error:
        raise FormExpired from error


def _for_programs() -> bool:
    return request.path.startswith("/api/")


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response

"""deploy/compose.yaml and the proxy's configuration: who reaches whom, and with what rights."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import limits
import pytest

from frontend.app import DEFAULTS, create_app
from tests.deploy.files import DEPLOY, ROOT, instruction, load

COMPOSE = DEPLOY / "compose.yaml"
SERVICES: dict[str, Any] = load("deploy/compose.yaml")["services"]
NETWORKS: dict[str, Any] = load("deploy/compose.yaml")["networks"]
VOLUMES: dict[str, Any] = load("deploy/compose.yaml")["volumes"]
NGINX = (DEPLOY / "compose" / "nginx.conf").read_text(encoding="utf-8")


def filled(text: str) -> str:
    """The text with every ${NAME:-default} at its default."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", path),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_schema_of_compose_holds() -> None:
    done = check_schema(COMPOSE)
    assert done.returncode == 0, done.stdout


def test_the_schema_would_refuse_a_slip(tmp_path: Path) -> None:
    slip = tmp_path / "compose.yaml"
    text = COMPOSE.read_text(encoding="utf-8")
    slip.write_text(text.replace("read_only:", "readonly:"), encoding="utf-8")
    assert check_schema(slip).returncode == 1


# Who reaches whom


def on(network: str) -> set[str]:
    """The services of a network."""
    return {name for name, service in SERVICES.items() if network in service["networks"]}


def test_only_the_proxy_publishes_ports_and_on_this_machine_only() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"proxy"}
    published = [filled(port) for port in SERVICES["proxy"]["ports"]]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    grafana = SERVICES["proxy"]["ports"][1]
    assert grafana.startswith("127.0.0.1:"), "Grafana has no accounts: not even a setting opens it"


@pytest.mark.parametrize(
    ("setting", "who", "port"),
    [("TS_INFERENCE_ADDRESS", "page", 8080), ("TS_METRICS_ADDRESS", "prometheus", 8082)],
)
def test_each_listener_of_torchserve_has_one_client(setting: str, who: str, port: int) -> None:
    torchserve = SERVICES["torchserve"]
    address = torchserve["environment"][setting]
    name = re.fullmatch(rf"http://([\w-]+):{port}", address)
    assert name, address
    networks = [n for n, options in torchserve["networks"].items() if name[1] in options["aliases"]]
    assert len(networks) == 1, "the name must be that of one network, or it binds to another's"
    assert on(networks[0]) == {"torchserve", who}


def test_the_management_api_stays_inside_the_container() -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert "8081:" not in text
    assert SERVICES["page"]["environment"]["DEEPFAKE_MANAGEMENT_URL"] == ""
    assert "MANAGEMENT" not in str(SERVICES["torchserve"]["environment"])
    assert "management_address=http://127.0.0.1:8081" in (ROOT / "config.properties").read_text()


def test_the_page_asks_the_address_that_torchserve_listens_on() -> None:
    listens = SERVICES["torchserve"]["environment"]["TS_INFERENCE_ADDRESS"]
    assert SERVICES["page"]["environment"]["DEEPFAKE_TORCHSERVE_URL"] == listens


def test_the_page_gets_torchserves_token_and_nothing_else_of_it() -> None:
    torchserve, page = SERVICES["torchserve"], SERVICES["page"]
    assert torchserve["environment"]["TS_DISABLE_TOKEN_AUTHORIZATION"] == "false"
    file = torchserve["environment"]["DEEPFAKE_TOKEN_FILE"]
    assert file == page["environment"]["DEEPFAKE_TOKEN_FILE"]
    folder = file.rpartition("/")[0]
    assert f"token:{folder}" in torchserve["volumes"]
    assert f"token:{folder}:ro" in page["volumes"]
    assert [n for n, s in SERVICES.items() if "token:" in str(s.get("volumes"))] == [
        "torchserve",
        "page",
    ]
    owner = dict(part.split("=") for part in VOLUMES["token"]["driver_opts"]["o"].split(","))
    for image in ("serve", "frontend"):
        assert instruction(image, "USER") == f"{owner['uid']}:{owner['gid']}"
    assert owner["mode"] == "0700"


def test_the_pages_settings_are_ones_that_it_has() -> None:
    for name, value in SERVICES["page"]["environment"].items():
        setting = name.removeprefix("DEEPFAKE_")
        assert setting in DEFAULTS, name
        assert not re.search(r"\$\{(?!\w+:?-)", str(value)), "a setting without a default"


def test_every_setting_is_named_at_the_top_and_reaches_a_service() -> None:
    head, _, body = COMPOSE.read_text(encoding="utf-8").partition("\nname: ")
    used = set(re.findall(r"\$\{(\w+)", body))
    assert set(re.findall(r"^#   (\w+) ", head, re.MULTILINE)) == used
    assert {"DEEPFAKE_CHECKPOINT_SHA256", "DEEPFAKE_SESSION_COOKIE_SECURE"} <= used


def test_settings_that_nobody_made_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = SERVICES["torchserve"]["environment"]["DEEPFAKE_CHECKPOINT_SHA256"]
    assert filled(pin) == "", "the worker takes it for none"
    name = "DEEPFAKE_SESSION_COOKIE_SECURE"
    monkeypatch.setenv(name, filled(SERVICES["page"]["environment"][name]))
    assert create_app().config["SESSION_COOKIE_SECURE"] is False


def test_rates_are_limited_for_all_pages_together() -> None:
    settings = {name: filled(str(v)) for name, v in SERVICES["page"]["environment"].items()}
    assert settings["DEEPFAKE_RATE"] == "30 per minute"
    assert settings["DEEPFAKE_PROXIES"] == "1"
    assert settings["DEEPFAKE_RATE_STORAGE"] == "redis://redis:6379"
    assert on("rates") == {"redis", "page"}
    assert SERVICES["redis"]["networks"] == ["rates"]
    assert not SERVICES["redis"].get("volumes"), "addresses are kept in memory only"
    for name in ("DEEPFAKE_RATE", "DEEPFAKE_KEY_RATE"):
        assert limits.parse_many(settings[name])


def test_only_the_proxys_network_leads_outside() -> None:
    used = {network for service in SERVICES.values() for network in service["networks"]}
    assert used == set(NETWORKS)
    outside = [name for name, options in NETWORKS.items() if not options.get("internal")]
    assert [on(name) for name in outside] == [{"proxy"}]


# With what rights


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_and_known_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert "healthcheck" in service or instruction(service["build"]["target"], "HEALTHCHECK")
    if "build" not in service:
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), "a tag that does not move"


def test_what_is_mounted_is_there_and_cannot_be_written() -> None:
    mounts = [v for service in SERVICES.values() for v in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) > 3
    for mount in files:
        source, _, mode = mount.split(":")
        assert (DEPLOY / source).exists(), mount
        assert mode == "ro"


def test_no_photo_can_reach_a_disk() -> None:
    in_memory = {n for n, v in VOLUMES.items() if v.get("driver_opts", {}).get("type") == "tmpfs"}
    for name in ("torchserve", "page", "proxy"):
        written = [v for v in SERVICES[name].get("volumes", []) if not v.endswith(":ro")]
        assert {v.partition(":")[0] for v in written} <= in_memory
        assert any(t.startswith("/tmp:") for t in SERVICES[name]["tmpfs"])
    paths = re.findall(r"_temp_path (\S+);", NGINX)
    assert len(paths) == 5
    assert all(path.startswith("/tmp/") for path in paths)


def test_the_proxys_own_answers_are_kept_nowhere() -> None:
    own = re.findall(r"location @\w+ \{(.*?)\n    \}", NGINX, re.DOTALL)
    assert len(own) == 3
    for answer in own:
        assert "add_header Cache-Control no-store always;" in answer
        assert "add_header X-Content-Type-Options nosniff always;" in answer


# The proxy


def nginx(name: str, unit: str) -> int:
    (value,) = re.findall(rf"^ *{name} (\d+){unit};", NGINX, re.MULTILINE)
    return int(value)


def test_the_proxy_passes_what_the_page_would_take_and_little_more() -> None:
    page = DEFAULTS["MAX_CONTENT_LENGTH"]
    assert page < nginx("client_max_body_size", "m") * 2**20 <= 1.1 * page


def test_the_uploads_of_one_address_leave_room_for_others() -> None:
    (size,) = re.findall(r"/tmp:size=(\d+)m", " ".join(SERVICES["proxy"]["tmpfs"]))
    uploads = nginx("limit_conn senders", "")
    assert uploads * nginx("client_max_body_size", "m") <= int(size) / 2
    assert uploads >= DEFAULTS["PHOTOS"], "or one address could never use the whole page"


def test_each_waits_longer_than_the_one_behind_it() -> None:
    page = DEFAULTS["TIMEOUT"] + 5  # and 5 s to connect
    gunicorn = int(re.search(r'"--graceful-timeout", "(\d+)"', instruction("frontend", "CMD"))[1])
    assert page <= gunicorn < seconds(SERVICES["page"]["stop_grace_period"])
    assert (
        page < nginx("proxy_read_timeout", "s") <= seconds(SERVICES["proxy"]["stop_grace_period"])
    )
    assert nginx("client_body_timeout", "s") <= 15, "a stalled upload holds memory"


def test_the_proxy_leads_to_services_that_share_a_network_with_it() -> None:
    ports = {"page": instruction("frontend", "EXPOSE"), "grafana": "3000"}
    upstreams = re.findall(r"set \$\w+ http://(\w+):(\d+);", NGINX)
    assert dict(upstreams) == ports
    for name in ports:
        assert set(SERVICES[name]["networks"]) & set(SERVICES["proxy"]["networks"])
    listens = set(re.findall(r"listen (\d+);", NGINX))
    assert {port.rpartition(":")[2] for port in SERVICES["proxy"]["ports"]} == listens


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("behind_another", [False, True])
def test_nginx_accepts_its_configuration(tmp_path: Path, behind_another: bool) -> None:
    config, text = tmp_path / "nginx.conf", NGINX.replace("/tmp/", f"{tmp_path}/")
    comment = "#   set_real_ip_from ADDRESS;"
    assert comment in text
    if behind_another:
        text = text.replace(comment, "set_real_ip_from 192.0.2.1;")
    config.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["nginx", "-t", "-c", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# Prometheus and Grafana


def test_prometheus_scrapes_the_address_that_torchserve_gives_its_metrics() -> None:
    (job,) = load("deploy/monitoring/prometheus.yml")["scrape_configs"]
    address = SERVICES["torchserve"]["environment"]["TS_METRICS_ADDRESS"]
    assert job["static_configs"] == [{"targets": [address.removeprefix("http://")]}]


def test_grafana_finds_what_it_is_to_show() -> None:
    inside = {v.split(":")[1]: v.split(":")[0] for v in SERVICES["grafana"]["volumes"]}
    (provider,) = load("deploy/monitoring/grafana/providers/deepfake.yaml")["providers"]
    folder = DEPLOY / inside[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/deepfake.json"
    assert [path.name for path in folder.iterdir()] == ["deepfake.json"]
    assert inside["/etc/grafana/provisioning/dashboards"] == "./monitoring/grafana/providers"
    assert inside["/etc/grafana/provisioning/datasources"] == "./monitoring/grafana/datasources"
    (source,) = load("deploy/monitoring/grafana/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert on("query") == {"prometheus", "grafana"}

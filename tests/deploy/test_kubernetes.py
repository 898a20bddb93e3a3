"""deploy/kubernetes: valid, consistent with the images, and closed where it should be."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.torchserve import TorchServe
from frontend.app import DEFAULTS
from tests.deploy.files import DEPLOY, ROOT, exported, instruction, load, load_all, selected

KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
FILES = sorted(BASE.glob("*.yaml"))
DOCUMENTS: list[dict[str, Any]] = [
    document for path in FILES if path.name != "kustomization.yaml" for document in load_all(path)
]
OLDEST, NEWEST = "1.29", "1.37"  # docs/operate.md names the oldest


def ids(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in DOCUMENTS if ids(d) == f"{kind} {name}")
    return found


def pod(name: str) -> dict[str, Any]:
    return find("Deployment", name)["spec"]["template"]["spec"]


def container(name: str) -> dict[str, Any]:
    (only,) = pod(name)["containers"]
    return only


def environment(name: str) -> dict[str, str]:
    """The variables of a container that are set in the manifest itself."""
    return {entry["name"]: entry["value"] for entry in container(name)["env"] if "value" in entry}


DEPLOYMENTS = [d["metadata"]["name"] for d in DOCUMENTS if d["kind"] == "Deployment"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_kubernetes_knows_every_field(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_slip_would_be_refused() -> None:
    slip = yaml.safe_load(yaml.safe_dump(find("Deployment", "page")))
    slip["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(slip, NEWEST, strict=True)


def test_kustomize_lists_every_file_and_changes_nothing() -> None:
    kustomization = load("deploy/kubernetes/base/kustomization.yaml")
    assert set(kustomization) == {"apiVersion", "kind", "resources"}
    listed = kustomization["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == [path.name for path in FILES]
    # So `kubectl apply -f` of the files in this order does the same.
    assert listed[0] == "namespace.yaml"
    for document in DOCUMENTS:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "deepfake"


def test_the_names_are_those_of_one_another() -> None:
    for name in DEPLOYMENTS:
        labels = find("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        ports = {port["name"] for port in container(name)["ports"]}
        service = find("Service", name)["spec"]
        assert service["selector"].items() <= labels.items()
        assert {port["targetPort"] for port in service["ports"]} <= ports
        for kind in ("Deployment", "PodDisruptionBudget"):
            assert find(kind, name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,) = find("Service", "torchserve")["spec"]["ports"]
    assert environment("page")["DEEPFAKE_TORCHSERVE_URL"] == f"http://torchserve:{port['port']}"
    assert environment("page")["DEEPFAKE_MANAGEMENT_URL"] == "", "that port is closed"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_meets_the_restricted_standard(name: str) -> None:
    namespace = find("Namespace", "deepfake")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    security = pod(name)["securityContext"]
    image = {"torchserve": "serve", "page": "frontend"}[name]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == instruction(image, "USER")
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [m["mountPath"] for m in container(name)["volumeMounts"]] == ["/tmp"]
    assert pod(name)["automountServiceAccountToken"] is False
    limits = container(name)["resources"]["limits"]
    assert set(limits) == {"cpu", "memory"}


# Who reaches whom


def opened(name: str) -> dict[int, list[dict[str, Any]]]:
    """The ports into a pod, each with who may come."""
    return {
        port["port"]: rule.get("from", [{}])
        for rule in find("NetworkPolicy", name)["spec"]["ingress"]
        for port in rule["ports"]
    }


def test_all_is_closed_that_is_not_opened() -> None:
    deny = find("NetworkPolicy", "deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_torchserve_is_open_to_the_page_and_to_prometheus_only() -> None:
    app = "app.kubernetes.io/name"
    assert opened("torchserve") == {
        8080: [{"podSelector": {"matchLabels": {app: "page"}}}],
        8082: [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {app: "prometheus"}},
            }
        ],
    }
    assert "egress" not in find("NetworkPolicy", "torchserve")["spec"], "it has no one to call"
    ports = {port["containerPort"] for port in container("torchserve")["ports"]}
    assert ports == {8080, 8082}


def test_the_page_calls_the_detector_and_the_name_server_only() -> None:
    egress = find("NetworkPolicy", "page")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {8080, 53}
    for rule in egress:
        assert rule["to"]


def test_the_pages_settings_are_ones_that_it_has_and_its_pods_sign_alike() -> None:
    names = [entry["name"].removeprefix("DEEPFAKE_") for entry in container("page")["env"]]
    assert set(names) <= set(DEFAULTS)
    (secret,) = (e for e in container("page")["env"] if e["name"] == "DEEPFAKE_SECRET_KEY")
    reference = secret["valueFrom"]["secretKeyRef"]
    text = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    command = f"create secret generic {reference['name']} --from-literal={reference['key']}="
    assert command in text, "without the secret no pod starts"


def test_tokens_are_off_only_where_the_network_policy_stands_in_for_them() -> None:
    assert "TS_DISABLE_TOKEN_AUTHORIZATION=false" in instruction("serve", "ENV")
    assert environment("torchserve")["TS_DISABLE_TOKEN_AUTHORIZATION"] == "true"
    assert opened("torchserve")[8080] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "page"}}}
    ]


# When it starts, stops and grows


def test_the_probes_ask_what_the_image_asks_itself() -> None:
    check = json.loads(instruction("serve", "HEALTHCHECK").rpartition("CMD ")[2])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container("torchserve")[probe]["exec"]["command"] == check
    for probe in ("readinessProbe", "livenessProbe"):
        # /readyz asks TorchServe: without it no page would be left to say so.
        assert container("page")[probe]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_a_worker_may_take_its_time_before_the_container_is_started_anew() -> None:
    config = load("handler/model-config.yaml")

    def patience(probe: str) -> int:
        settings = container("torchserve")[probe]
        return settings["periodSeconds"] * settings["failureThreshold"]

    assert patience("startupProbe") > 2 * config["startupTimeout"]
    assert patience("livenessProbe") > config["maxRetryTimeoutInSec"]
    assert patience("readinessProbe") <= 30, "clients must not be sent to a dead worker for long"


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_finishes_its_requests_before_it_ends(name: str) -> None:
    command = container(name)["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    java = inspect.signature(TorchServe.stop).parameters["patience"].default
    gunicorn = re.search(r'"--graceful-timeout", "(\d+)"', instruction("frontend", "CMD"))[1]
    work = {"torchserve": java, "page": int(gunicorn)}[name]
    assert pod(name)["terminationGracePeriodSeconds"] >= int(command[1]) + work
    update = find("Deployment", name)["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


def test_nodes_can_be_emptied() -> None:
    for name in DEPLOYMENTS:
        assert find("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
    assert find("HorizontalPodAutoscaler", "torchserve")["spec"]["minReplicas"] >= 2
    assert find("Deployment", "page")["spec"]["replicas"] >= 2


def test_the_autoscaler_owns_the_number_of_torchserves() -> None:
    scaler = find("HorizontalPodAutoscaler", "torchserve")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "torchserve"
    assert "replicas" not in find("Deployment", "torchserve")["spec"]
    assert [metric["type"] for metric in scaler["metrics"]] == ["Resource"]
    assert "cpu" in container("torchserve")["resources"]["requests"], "a share of nothing"


def test_the_overlay_scales_by_a_rate_that_the_adapters_rule_gives() -> None:
    overlay = load("deploy/kubernetes/queue/kustomization.yaml")
    assert overlay["resources"] == ["../base"]
    (patch,) = overlay["patches"]
    scaler = load(f"deploy/kubernetes/queue/{patch['path']}")
    kubernetes_validate.validate(
        scaler | {"spec": find("HorizontalPodAutoscaler", "torchserve")["spec"] | scaler["spec"]},
        NEWEST,
        strict=True,
    )
    base = find("HorizontalPodAutoscaler", "torchserve")
    assert scaler["metadata"] == base["metadata"]
    queue, *rest = scaler["spec"]["metrics"]
    assert rest == base["spec"]["metrics"], "CPU stays"
    (rule,) = load("deploy/kubernetes/prometheus/adapter-rule.yaml")["rules"]
    assert queue["pods"]["metric"]["name"] == rule["name"]["as"]
    (series,) = selected(rule["seriesQuery"])
    assert exported()[series][0] == "counter"
    query = rule["metricsQuery"].replace("<<.Series>>", series)
    query = query.replace("<<.LabelMatchers>>", 'namespace="deepfake"')
    query = query.replace("<<.GroupBy>>", "pod")
    assert selected(query) == {series}
    assert "rate(" in query


def test_the_scrape_job_gives_the_labels_that_the_adapters_rule_asks_for() -> None:
    (job,) = load("deploy/kubernetes/prometheus/scrape-config.yaml")
    assert job["job_name"] == "torchserve"
    targets = {rule.get("target_label") for rule in job["relabel_configs"]}
    assert {"namespace", "pod"} <= targets
    (keep,) = (rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep")
    assert keep in {port["name"] for port in container("torchserve")["ports"]}


PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


def test_a_pod_that_has_ended_is_not_scraped() -> None:
    """Its object stays after an eviction, and would keep the alert of a silent TorchServe alive."""
    (job,) = load("deploy/kubernetes/prometheus/scrape-config.yaml")
    (drop,) = (rule for rule in job["relabel_configs"] if rule.get("action") == "drop")
    assert drop["source_labels"] == ["__meta_kubernetes_pod_phase"]
    dropped = [phase for phase in PHASES if re.fullmatch(drop["regex"], phase)]
    assert dropped == ["Succeeded", "Failed"]


def test_the_images_carry_the_projects_version() -> None:
    version = (ROOT / "src" / "deepfake" / "__init__.py").read_text(encoding="utf-8")
    for name in DEPLOYMENTS:
        image, _, tag = container(name)["image"].partition(":")
        assert image in ("deepfake-serve", "deepfake-frontend")
        assert f'__version__ = "{tag}"' in version

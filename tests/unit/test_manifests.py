"""k3s/: what Kubernetes itself would refuse, and what it would take and that would still be wrong."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker import services
from broker.accounts import DEFAULTS
from broker.catalogue import read_catalogue
from broker.declaring import PREFIX, setting_names
from broker.settings import OTHER_NAMES, load
from tests.support import ROOT
from tools import boards
from turnpike.cli.tree import TURNPIKE
from workers.boards.offers import PARKED_SHARE
from workers.boards.settings import BoardSettings
from workers.machine import model_plan
from workers.machine.model_plan import LIMIT_HEADROOM_BYTES

KUBERNETES = "1.34"
"""Of K3s, as docs/deployment.md says."""
FOLDERS = (
    "overlays/pi-cluster",
    "overlays/single-node",
    "load",
    "overlays/pi-cluster-mirrored",
    "overlays/pi-cluster-per-model",
    "overlays/pi-cluster-per-model-mirrored",
)
BOARDS = ("overlays/pi-cluster", "overlays/pi-cluster-mirrored")
WORKERS = tuple(folder for folder in FOLDERS if folder not in (*BOARDS, "load"))
SETTINGS = setting_names(one.options for _, one in TURNPIKE.walk())
FOREIGN = re.compile(r"INFLUX_(URL|HOST|USER|PASSWORD|DATABASE)|INFLUXDB_\w+|GF_\w+|HF_(HOME|TOKEN)|RUN")
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?")
FROM_GENERATOR = {
    "turnpike-nats": {"nats-server.conf", *(f"{name}.credentials" for name, _ in DEFAULTS)},
    "turnpike-influxdb": {"user", "password", "url"},
    "turnpike-grafana": {"password"},
    "turnpike-gateway": {"keys.toml", "local.key"},
}
"""What `turnpike broker secret` writes; tests/integration/test_tls.py holds it to that."""
OPTIONAL_SECRETS = {"turnpike-hub"}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here, which renders the overlays")


@functools.cache
def rendered(folder: str) -> str:
    return subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "k3s" / folder)], capture_output=True, text=True, check=True
    ).stdout


def objects(folder: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(rendered(folder)) if one]


def workloads(folder: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, workload and pod template of everything that runs."""
    for one in objects(folder):
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield f"{one['kind']}/{one['metadata']['name']}", one, one["spec"]["template"]


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    return [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def named(folder: str, kind: str) -> dict[str, dict[str, Any]]:
    everywhere = [*objects(folder), *(objects("overlays/single-node") if folder == "load" else ())]
    return {one["metadata"]["name"]: one for one in everywhere if one["kind"] == kind}


def settings_of(folder: str, scratch: Path) -> BoardSettings:
    """What boards of an overlay are told by their file."""
    (found,) = (one["data"] for one in named(folder, "ConfigMap").values() if "board.toml" in one.get("data", {}))
    file = scratch / "board.toml"
    file.write_text(found["board.toml"])
    return load(BoardSettings, flags={}, environment={}, file=file)


def has(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", selector)
    return wanted.items() <= labels.items()


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_it(folder: str, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(rendered(folder))
    command = [str(ROOT / ".venv/bin/kubernetes-validate"), "--strict", "-k", KUBERNETES, str(file)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert (found.stdout + found.stderr).count(" passed ") == len(objects(folder))


@pytest.mark.parametrize("folder", FOLDERS)
def test_selectors_find_their_pods(folder: str) -> None:
    templates = [template for _, _, template in workloads(folder)]
    if folder == "load":
        templates += [template for _, _, template in workloads("overlays/single-node")]
    for name, one, template in workloads(folder):
        labels = template["metadata"]["labels"]
        if "selector" in one["spec"]:
            assert has(labels, one["spec"]["selector"]), name
            alike = [other for other in templates if has(other["metadata"]["labels"], one["spec"]["selector"])]
            assert len(alike) == 1, f"{name} selects the pods of others"
        for spread in template["spec"].get("topologySpreadConstraints", ()):
            assert has(labels, spread["labelSelector"]), name
    for one in objects(folder):
        match one["kind"]:
            case "Service" | "PodDisruptionBudget":
                selectors = [one["spec"]["selector"]]
            case "NetworkPolicy":
                peers = [
                    peer
                    for rule in (*one["spec"].get("ingress", ()), *one["spec"].get("egress", ()))
                    for peer in (*rule.get("from", ()), *rule.get("to", ()))
                    if "podSelector" in peer
                ]
                selectors = [one["spec"]["podSelector"], *(peer["podSelector"] for peer in peers)]
            case _:
                continue
        for selector in selectors:
            found = [template for template in templates if has(template["metadata"]["labels"], selector)]
            assert found, f"{one['kind']}/{one['metadata']['name']} selects no pod: {selector}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_environment_variable_is_a_setting(folder: str) -> None:
    for name, _, template in workloads(folder):
        for container in containers(template):
            for variable in container.get("env", ()):
                text = variable["name"]
                if text.startswith(PREFIX):
                    assert text in OTHER_NAMES or text.removeprefix(PREFIX).lower() in SETTINGS, f"{name}: {text}"
                else:
                    assert FOREIGN.fullmatch(text), f"{name}: {text}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_that_is_referred_to_is_there(folder: str) -> None:
    maps = {name: set(one.get("data", {})) for name, one in named(folder, "ConfigMap").items()}
    claims, accounts = named(folder, "PersistentVolumeClaim"), named(folder, "ServiceAccount")
    for name, one, template in workloads(folder):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts, name
        if "priorityClassName" in spec:
            assert spec["priorityClassName"] in named("overlays/single-node", "PriorityClass"), name
        own = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
        volumes = own | {volume["name"] for volume in spec.get("volumes", ())}
        for volume in spec.get("volumes", ()):
            if "secret" in volume:
                keys = FROM_GENERATOR[volume["secret"]["secretName"]]
                assert {item["key"] for item in volume["secret"]["items"]} <= keys, name
            elif "configMap" in volume:
                assert volume["configMap"]["name"] in maps, name
            elif "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, name
        used = set()
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports, f"{name}: {probe}"
            for mount in container.get("volumeMounts", ()):
                used.add(mount["name"])
                assert mount["name"] in volumes, f"{name}: {mount['name']}"
                if sub := mount.get("subPath"):
                    assert sub in maps["grafana-provisioning"], f"{name}: {sub}"
            for variable in container.get("env", ()):
                source = variable.get("valueFrom", {})
                if key := source.get("secretKeyRef"):
                    if key["name"] in OPTIONAL_SECRETS:
                        assert key["optional"], name
                    else:
                        assert key["key"] in FROM_GENERATOR[key["name"]], f"{name}: {key}"
                elif (key := source.get("configMapKeyRef")) and not (key.get("optional") and key["name"] not in maps):
                    assert key["key"] in maps[key["name"]], f"{name}: {key}"
        assert used == volumes, f"{name}: a volume that nobody mounts"


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_restricted_and_say_what_they_need(folder: str) -> None:
    for name, _, template in workloads(folder):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        for container in containers(template):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"]["drop"] == ["ALL"], name
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(requests), name
            assert "memory" in limits, name
            for quantity in (*requests.values(), *limits.values()):
                assert QUANTITY.fullmatch(str(quantity)), f"{name}: {quantity}"
            assert not container["image"].endswith(":latest"), name
            assert not container["image"].startswith("turnpike/"), f"{name}: the overlay names no image"


@pytest.mark.parametrize("folder", FOLDERS)
def test_who_connects_where_may(folder: str) -> None:
    for name, _, template in workloads(folder):
        labels = template["metadata"]["labels"]
        variables = {variable["name"] for one in containers(template) for variable in one.get("env", ())}
        assert ("TURNPIKE_CREDENTIALS" in variables) == (labels.get("turnpike.io/nats") == "client"), name
        if labels["app.kubernetes.io/name"] != "influxdb":
            connects = bool(variables & {"INFLUX_URL", "INFLUX_HOST"})
            assert connects == (labels.get("turnpike.io/influxdb") == "client"), name


def test_the_ingress_example_leads_to_the_gateway() -> None:
    example = yaml.safe_load((ROOT / "k3s/gateway/ingress.example.yaml").read_text())
    (path,) = example["spec"]["rules"][0]["http"]["paths"]
    service = named("overlays/single-node", "Service")[path["backend"]["service"]["name"]]
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_no_secret_is_in_the_repository() -> None:
    for folder in FOLDERS:
        assert not [one for one in objects(folder) if one["kind"] == "Secret"]
    for one in yaml.safe_load_all((ROOT / "k3s/secrets.example.yaml").read_text()):
        assert set(one["stringData"]) == FROM_GENERATOR[one["metadata"]["name"]]


def test_workers_are_given_what_their_plan_says() -> None:
    for token, text in boards.models().items():
        assert (ROOT / "k3s/models" / token / "kustomization.yaml").read_text() == text, "python -m tools.boards ."
    for name, _, template in workloads("overlays/pi-cluster-per-model"):
        if "/worker-" not in name:
            continue
        (worker,) = template["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in worker["env"]}
        entry = read_catalogue()[variables["TURNPIKE_MODEL"] or ""]
        planned = model_plan.plan(entry, int(variables["TURNPIKE_NUM_CTX"] or 0)).total
        planned += int(variables["TURNPIKE_PARK_BYTES"] or 0)
        assert planned <= int(worker["resources"]["requests"]["memory"].removesuffix("Mi")) * boards.MIB
        total = sum(int(one["resources"]["requests"]["memory"].removesuffix("Mi")) for one in containers(template)[1:])
        assert total * boards.MIB <= 8 * boards.GIB - boards.FIRMWARE_BYTES, f"{name} does not fit its board"
        assert template["spec"]["nodeSelector"] == {"turnpike.io/model": variables["TURNPIKE_MODEL"]}


def test_a_board_can_load_each_of_its_models_within_what_its_pod_has(tmp_path: Path) -> None:
    for name, text in boards.board_sizes().items():
        assert (ROOT / "k3s/boards" / name / "kustomization.yaml").read_text() == text, "python -m tools.boards ."
    requests = [
        int(one["resources"]["requests"]["memory"].removesuffix("Mi")) * workload["spec"].get("replicas", 1)
        for name, workload, template in workloads("overlays/pi-cluster")
        for one in template["spec"]["containers"]
        if name != "DaemonSet/board"
    ]
    assert sum(requests) * boards.MIB <= boards.SERVICES_BYTES, "what runs beside boards asks for more"
    (template,) = (found for name, _, found in workloads("overlays/pi-cluster") if name == "DaemonSet/board")
    (board,) = template["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in board["env"]}
    memory_bytes = int(variables["TURNPIKE_MEMORY_BYTES"] or 0)
    limit = int(board["resources"]["limits"]["memory"].removesuffix("Mi")) * boards.MIB
    assert memory_bytes + LIMIT_HEADROOM_BYTES <= limit
    (memory,) = (one["emptyDir"] for one in template["spec"]["volumes"] if one["name"] == "memory")
    assert memory["medium"] == "Memory"
    assert int(memory["sizeLimit"].removesuffix("Mi")) * boards.MIB <= memory_bytes // PARKED_SHARE
    for model in settings_of("overlays/pi-cluster", tmp_path).model:
        needed = model_plan.plan(read_catalogue()[model], BoardSettings().num_ctx).needed
        assert needed <= memory_bytes, f"{model} does not fit"


@pytest.mark.parametrize("folder", BOARDS)
def test_boards_have_their_models_their_account_and_their_node(folder: str, tmp_path: Path) -> None:
    (template,) = (found for name, _, found in workloads(folder) if name == "DaemonSet/board")
    (board,) = template["spec"]["containers"]
    variables = {variable["name"]: variable for variable in board["env"]}
    assert variables["TURNPIKE_NODE"]["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
    mounts = {mount["mountPath"]: mount["name"] for mount in board["volumeMounts"]}
    volumes = {one["name"]: one for one in template["spec"]["volumes"]}
    config, lock = (Path(variables[f"TURNPIKE_{name}"]["value"]) for name in ("CONFIG", "LOCK_FILE"))
    found = named(folder, "ConfigMap")[volumes[mounts[str(config.parent)]]["configMap"]["name"]]["data"]
    assert {config.name, lock.name} <= set(found)
    assert set(settings_of(folder, tmp_path).model) <= set(read_catalogue())
    (key,) = (item["key"] for item in volumes["board-credentials"]["secret"]["items"])
    assert dict(DEFAULTS)[key.removesuffix(".credentials")] == "board"
    assert template["spec"]["terminationGracePeriodSeconds"] == services.WORKER_STOP_SECONDS
    claim = named(folder, "PersistentVolumeClaim")["board"]["spec"]
    volume = named(folder, "PersistentVolume")[claim["volumeName"]]["spec"]
    assert claim["storageClassName"] == volume["storageClassName"]
    assert volume["hostPath"]["type"] == "Directory", "made by somebody who makes it the pods' user's"
    assert Path(variables["TURNPIKE_DATA_DIR"]["value"]).is_relative_to("/var/lib/turnpike")
    # What it keeps of a board's own outlives the pod, and so does every file that was fetched.
    assert mounts["/var/lib/turnpike"] == "board"
    (queues,) = (found for name, _, found in workloads(folder) if name == "Deployment/queues")
    said = {variable["name"]: variable.get("value") for variable in queues["spec"]["containers"][0]["env"]}
    assert said["TURNPIKE_LOCK_FILE"] == str(lock), "a queue for each model, before any board is there"
    for one in containers(template):
        if one["name"] in ("fetch-models", "mirror"):
            said = {variable["name"]: variable.get("value") for variable in one["env"]}
            assert said["TURNPIKE_MODELS_DIR"] == variables["TURNPIKE_MODELS_DIR"]["value"], one["name"]
            assert said["TURNPIKE_LOCK_FILE"] == str(lock), one["name"]


def test_a_change_of_a_boards_models_starts_boards_anew() -> None:
    (template,) = (found for name, _, found in workloads("overlays/pi-cluster") if name == "DaemonSet/board")
    (name,) = (one["configMap"]["name"] for one in template["spec"]["volumes"] if "configMap" in one)
    assert re.fullmatch(r"boards-[a-z0-9]{10}", name), "named by what is in it"


def test_streams_are_made_for_every_model_that_is_served() -> None:
    for folder in WORKERS:
        served = {
            variable["value"]
            for name, _, template in workloads(folder)
            for one in template["spec"]["containers"]
            for variable in one.get("env", ())
            if name.startswith("Deployment/worker") and variable["name"] == "TURNPIKE_MODEL"
        }
        assert set(named(folder, "ConfigMap")["models"]["data"]["tokens"].split(",")) == served


def test_the_boards_page_is_what_the_plan_says() -> None:
    page = (ROOT / "docs/boards.md").read_text()
    assert boards.MARK + boards.reference() in page, "renew it: python -m tools.boards ."
    assert boards.PLANS_MARK + boards.plans() in page, "renew it: python -m tools.boards ."

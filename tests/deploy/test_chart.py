"""What the chart makes: valid for Kubernetes and its operators, safe by default, and each feature does what it is for."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from modelrepo.__main__ import parser
from modelrepo.signatures import TrustedKeys
from service.settings import Settings
from tests.deploy import custom_resources
from tests.deploy.chart import CHART, DEPLOY, FEATURES, container, feature, kinds, one, pod, render, settings
from tests.deploy.pod_security import violations

# The oldest that Chart.yaml takes, and the newest there are schemas of; in between fields only came.
VERSIONS = ("1.28", kubernetes_validate.latest_version())
NEWER = {"image-volume": ("1.33",), "settings": ("1.30",)}  # what needs a later one


@pytest.fixture(autouse=True, scope="module")
def _schemas_are_read_once():
    """kubernetes-validate reads megabytes of JSON for every document."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@cache
def kubernetes_fault(document: str, version: str) -> str | None:
    try:
        kubernetes_validate.validate(json.loads(document), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{version} {'.'.join(map(str, error.path))}: {error.message}"
    return None


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_valid_for_helm_kubernetes_and_the_operators(name):
    report = helm_python.lint(CHART, yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text()), strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []
    faults = []
    for document in feature(name):
        if document["kind"] in custom_resources.SCHEMAS:
            faults += custom_resources.faults(document)
        else:
            versions = (*NEWER.get(name, VERSIONS[:1]), VERSIONS[1])
            faults += [fault for version in versions if (fault := kubernetes_fault(json.dumps(document), version))]
    assert faults == []


@pytest.mark.parametrize("name", FEATURES)
def test_every_pod_passes_the_pod_security_standard_restricted_and_has_no_token(name):
    for document in feature(name):
        spec = document["spec"]["template"]["spec"] if document["kind"] == "Deployment" else document.get("spec")
        if document["kind"] in ("Deployment", "Pod"):
            assert violations(spec) == []
            assert spec["automountServiceAccountToken"] is False
            each = [*spec.get("initContainers", []), *spec["containers"]]
            assert all(one["securityContext"]["readOnlyRootFilesystem"] for one in each)
        if document["kind"] == "ServiceAccount":
            assert document["automountServiceAccountToken"] is False


def test_the_check_of_pod_security_finds_what_it_is_for():
    bad = {"containers": [{"name": "c", "ports": [{"hostPort": 1}]}], "volumes": [{"name": "v", "hostPath": {}}], "hostPID": True}
    assert len(violations(bad)) == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"replica": 3}, "'replica' not allowed", id="unknown value"),
        pytest.param({"settings": {"max_queue_row": 1}}, "'max_queue_row' not allowed", id="unknown setting"),
        pytest.param({"settings": {"drain_delay": -1}}, "minimum: got -1", id="setting out of range"),
        pytest.param({"canary": {"overrides": {"image": {"tagg": "x"}}}}, "'tagg' not allowed", id="typo of an override"),
        pytest.param({"gpu": {"enabled": "yes"}}, "want boolean", id="wrong type"),
        pytest.param({"prometheusRule": {"slowSeconds": 0.3}}, "slowSeconds", id="no bucket of the histogram"),
        pytest.param(
            {"models": {"claim": {"name": "a"}, "pull": {"url": "http://b"}}}, "not from claim and pull", id="two sources"
        ),
        pytest.param(
            {"tls": {"clientCa": "a"}}, "tls.clientCa is for HTTPS: set tls.secret", id="clients' certificates without TLS"
        ),
        pytest.param({"settings": {"keys": "/a"}}, "'keys' not allowed", id="what the chart sets"),
        pytest.param({"models": {"pull": {"url": "http://b"}}}, "say which by models.pull.sha256", id="any archive"),
        pytest.param({"models": {"url": "/models"}}, "at '/models/url'", id="no URL"),
        pytest.param({"models": {"trustedKeys": {"a.pub": "ssh-ed25519 x"}}}, "a.pub", id="no PEM"),
        pytest.param(
            {
                "models": {"url": "s3://m"},
                "engines": {"build": True},
                "image": {"variant": "gpu-tensorrt"},
                "gpu": {"enabled": True},
            },
            "use models.pull or models.claim",
            id="engines in copies",
        ),
        pytest.param({"secret": {"existing": "a", "data": {"b": "c"}}}, "leave one empty", id="two secrets"),
        pytest.param({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "enable one", id="two scalers"),
        pytest.param({"autoscaling": {"enabled": True, "cpuPercent": 0}}, "looks at nothing", id="no measure"),
        pytest.param({"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}, "twice", id="two monitors"),
        pytest.param({"canary": {"enabled": True}}, "set httpRoute.enabled", id="canary without a share"),
        pytest.param({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs", id="route without a Gateway"),
        pytest.param({"ingress": {"enabled": True}}, "ingress.hosts", id="ingress without a host"),
        pytest.param({"engines": {"build": True}}, "set image.variant to gpu-tensorrt", id="engines without TensorRT"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_with_the_fix(values, message):
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        render(values)


def test_the_schema_knows_every_value():
    def compare(values, schema, path=""):
        assert set(values) <= set(schema["properties"]), path
        for name, value in values.items():
            known = schema["properties"][name]
            if isinstance(value, dict) and "properties" in known:
                compare(value, known, f"{path}.{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema)


def test_settings_are_what_the_service_reads(monkeypatch):
    for name, value in settings(feature("settings")).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (read.drain_delay, read.drain_seconds, read.max_body_bytes, read.max_queue_delay_ms) == (12, 60, 33554432, 2.5)
    assert (read.versions, read.show_calls, read.host, read.port) == ("latest:2 digits-cnn=all", False, "0.0.0.0", 8000)


def test_grace_period_and_probes_follow_from_the_settings():
    documents = feature("settings")
    assert pod(documents)["terminationGracePeriodSeconds"] == 10 + 12 + 60 + 5
    service = container(documents)
    assert service["lifecycle"] == {"preStop": {"sleep": {"seconds": 10}}}
    startup, ready, live = service["startupProbe"], service["readinessProbe"], service["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 45
    assert ready["periodSeconds"] * ready["failureThreshold"] == 12, "those who route by readiness notice within drain_delay"
    assert live["periodSeconds"] * live["failureThreshold"] >= 120, "not killed before watchdog_seconds are over"
    assert (live["httpGet"]["path"], ready["httpGet"]["path"]) == ("/v2/health/live", "/v2/health/ready")
    assert pod(feature("default"))["terminationGracePeriodSeconds"] == 6 + 25 + 5
    assert "lifecycle" not in container(feature("default"))


def test_settings_that_are_left_out_count_with_the_defaults_of_the_service():
    fields = Settings.model_fields
    rendered = render({"settings": {"drain_delay": None, "drain_seconds": None, "watchdog_seconds": None}})
    wanted = fields["drain_delay"].default + fields["drain_seconds"].default + 5
    assert pod(rendered)["terminationGracePeriodSeconds"] == wanted
    assert container(rendered)["livenessProbe"]["failureThreshold"] * 10 == fields["watchdog_seconds"].default


def test_a_changed_setting_or_secret_rolls_the_pods():
    def annotations(values):
        return one(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]

    changes = [{}, {"settings": {"instances": 2}}, {"secret": {"data": {"A": "1"}}}, {"secret": {"data": {"A": "2"}}}]
    assert len({json.dumps(annotations(values)) for values in changes}) == len(changes)


def test_a_rollout_never_takes_a_pod_away_before_another_is_ready():
    strategy = one(feature("default"), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_service_and_monitors_name_the_port_and_select_the_pods():
    for name, kind, endpoints in (
        ("podmonitor", "PodMonitor", "podMetricsEndpoints"),
        ("servicemonitor", "ServiceMonitor", "endpoints"),
    ):
        documents = feature(name)
        (port,) = container(documents)["ports"]
        (service_port,) = one(documents, "Service")["spec"]["ports"]
        (endpoint,) = one(documents, kind)["spec"][endpoints]
        assert port["name"] == service_port["name"] == service_port["targetPort"] == endpoint["port"] == "http"
        assert endpoint["path"] == "/metrics"
        labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert one(documents, "Service")["spec"]["selector"].items() <= labels.items()
        selected = labels if kind == "PodMonitor" else one(documents, "Service")["metadata"]["labels"]
        assert one(documents, kind)["spec"]["selector"]["matchLabels"].items() <= selected.items()
    assert one(feature("podmonitor"), "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"


def test_grpc_has_a_port_of_its_own_in_container_service_and_policy():
    documents = feature("grpc")
    assert settings(documents)["QUARTET_SERVE_GRPC_PORT"] == "9001"
    assert container(documents)["ports"][1:] == [{"name": "grpc", "containerPort": 9001, "protocol": "TCP"}]
    (_, port) = one(documents, "Service")["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"], port["appProtocol"]) == ("grpc", 9001, "grpc", "kubernetes.io/h2c")
    (rule,) = one(documents, "NetworkPolicy")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}, {"port": "grpc", "protocol": "TCP"}]
    assert "QUARTET_SERVE_GRPC_PORT" not in settings(feature("default"))


def test_the_secret_reaches_the_service_and_the_one_who_pulls():
    documents = feature("settings")
    assert one(documents, "Secret")["stringData"] == {"PULL_AUTHORIZATION": "Bearer it-is-secret"}
    assert {"secretRef": {"name": "quartet"}} in container(documents)["envFrom"]
    existing = feature("pull")
    assert "Secret" not in kinds(existing)
    (fill,) = pod(existing)["initContainers"]
    assert fill["envFrom"] == [{"secretRef": {"name": "models-token"}}]
    assert {"secretRef": {"name": "models-token"}} in container(existing)["envFrom"]


def test_traces_go_to_the_collector_with_the_pods_name_and_through_the_network_policy():
    documents = feature("telemetry")
    given = {each["name"]: each.get("value", each.get("valueFrom")) for each in container(documents)["env"]}
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.monitoring:4318"
    assert (given["OTEL_TRACES_SAMPLER"], given["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.1")
    assert given["OTEL_SERVICE_NAME"] == "quartet"
    names = list(given)
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES"), "Kubernetes puts in what it has met before"
    assert given["OTEL_RESOURCE_ATTRIBUTES"] == "k8s.namespace.name=models,k8s.pod.name=$(POD_NAME),quartet.track=stable"
    assert given["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert given["OTEL_BSP_SCHEDULE_DELAY"] == "1000"
    ports = [port["port"] for rule in one(documents, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 4318]
    assert settings(documents).items() >= {"QUARTET_SERVE_LOG_FORMAT": "json", "QUARTET_SERVE_TRITON_METRICS": "true"}.items()
    assert not any("OTEL" in each["name"] for each in container(feature("default"))["env"])


def test_keys_and_certificates_are_folders_so_that_a_change_reaches_the_service():
    documents = feature("mtls")
    assert settings(documents)["QUARTET_SERVE_TLS_CERTIFICATE"] == "/etc/quartet/tls/tls.crt"
    assert settings(documents)["QUARTET_SERVE_TLS_CLIENT_CA"] == "/etc/quartet/client-ca/ca.crt"
    assert mounts(container(documents))["tls"] == ("/etc/quartet/tls", True, None)
    assert volumes(documents)["client-ca"] == {"secret": {"secretName": "quartet-clients", "defaultMode": 0o440}}
    documents = feature("keys")
    assert settings(documents)["QUARTET_SERVE_KEYS"] == "/etc/quartet/keys/keys.json"
    assert mounts(container(documents))["keys"] == ("/etc/quartet/keys", True, None)
    (endpoint,) = one(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "quartet-scraper", "key": "key"}}


@pytest.mark.parametrize(
    ("name", "probed", "ports"),
    [
        ("keys", {"port": "http"}, {"http": 8000}),
        ("tls", {"port": "http", "scheme": "HTTPS"}, {"http": 8000}),
        ("mtls", {"port": "health"}, {"http": 8000, "health": 9001}),
    ],
)
def test_probes_ask_where_they_get_an_answer(name, probed, ports):
    documents = feature(name)
    service = container(documents)
    assert {port["name"]: port["containerPort"] for port in service["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert {field: value for field, value in service[probe]["httpGet"].items() if field != "path"} == probed
    assert settings(documents).get("QUARTET_SERVE_HEALTH_PORT") == (str(ports["health"]) if "health" in ports else None)
    scheme = "http" if name == "keys" else "https"
    assert one(documents, "Service")["spec"]["ports"][0]["appProtocol"] == scheme
    test = one(documents, "Pod", "quartet-test")["spec"]["containers"][0]
    assert test["args"][-1] == f"{scheme}://quartet:8000"
    wanted = {"keys": {"KEY"}, "tls": {"SSL_CERT_FILE"}, "mtls": {"SSL_CERT_FILE", "CERTIFICATE"}}
    assert {variable["name"] for variable in test["env"]} == wanted[name]


def mounts(container):
    return {
        mount["name"]: (mount["mountPath"], mount.get("readOnly", False), mount.get("subPath"))
        for mount in container["volumeMounts"]
    }


def volumes(documents):
    return {volume.pop("name"): volume for volume in pod(documents)["volumes"]}


@pytest.mark.parametrize(
    ("name", "volume", "mount"),
    [
        ("claim", {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}, ("/models", True, "production")),
        (
            "image-volume",
            {"image": {"reference": "registry.example.com/models:7", "pullPolicy": "IfNotPresent"}},
            ("/models", True, None),
        ),
        ("pull", {"emptyDir": {"sizeLimit": "8Gi"}}, ("/models", True, None)),
    ],
)
def test_models_come_from_a_claim_an_image_or_an_archive(name, volume, mount):
    documents = feature(name)
    assert volumes(documents)["models"] == volume
    assert mounts(container(documents))["models"] == mount
    assert settings(documents)["QUARTET_SERVE_REPOSITORY"] == "/models"


def test_models_that_lie_in_the_image_are_covered_by_no_volume():
    assert set(volumes(feature("default"))) == set(mounts(container(feature("default")))) == {"tmp"}


def test_a_sample_of_requests_is_kept_on_a_claim_or_until_the_pod_goes(monkeypatch):
    documents = feature("capture")
    assert volumes(documents)["capture"] == {"persistentVolumeClaim": {"claimName": "captured"}}
    assert mounts(container(documents))["capture"] == ("/capture", False, None)
    for name, value in settings(documents).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (str(read.capture), read.capture_share, read.capture_bytes) == ("/capture", 0.05, 10 * 2**30)
    limit = volumes(render({"capture": {"enabled": True}}))["capture"]["emptyDir"]["sizeLimit"]
    assert int(limit) > Settings.model_fields["capture_bytes"].default, "or the pod would be evicted"
    assert "QUARTET_SERVE_CAPTURE" not in settings(feature("default"))


def does(container):
    """What an init container asks of `python -m modelrepo`, as its own parser reads it."""
    assert container["command"] == ["python", "-m", "modelrepo"]
    return parser().parse_args(container["args"])


def test_pulled_models_are_checked_against_their_checksum():
    documents = feature("pull")
    (fill,) = pod(documents)["initContainers"]
    asked = does(fill)
    assert (asked.command, asked.repository, asked.delete) == ("pull", Path("/models"), True)
    address, _, checksum = asked.url.partition("#sha256=")
    assert address == "https://models.example.com/repository.tar.gz"
    assert checksum == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert mounts(fill)["models"] == ("/models", False, None)


def test_a_url_is_served_from_copies_that_the_cache_has_room_for():
    documents = feature("url")
    read = settings(documents)
    assert (read["QUARTET_SERVE_REPOSITORY"], read["QUARTET_SERVE_CACHE"]) == ("s3://models/production", "/models")
    assert 0.8 * 20 * 2**30 < int(read["QUARTET_SERVE_CACHE_BYTES"]) < 20 * 2**30
    assert volumes(documents)["models"] == {"emptyDir": {"sizeLimit": "20Gi"}}
    assert mounts(container(documents))["models"] == ("/models", False, None)
    assert "initContainers" not in pod(documents)
    assert {"secretRef": {"name": "models-store"}} in container(documents)["envFrom"]
    assert one(documents, "NetworkPolicy")["spec"]["egress"][1]["ports"] == [{"port": 443, "protocol": "TCP"}]
    own = render({"models": {"url": "gs://m"}, "settings": {"cache_bytes": 1000}})
    assert settings(own)["QUARTET_SERVE_CACHE_BYTES"] == "1000"


def test_trusted_keys_come_from_a_configmap(tmp_path):
    documents = feature("url")
    assert (
        settings(documents)["QUARTET_SERVE_TRUSTED_KEYS"]
        == mounts(container(documents))["trusted-keys"][0]
        == "/etc/quartet/trusted-keys"
    )
    assert volumes(documents)["trusted-keys"] == {"configMap": {"name": "quartet-trusted-keys"}}
    for name, text in one(documents, "ConfigMap", "quartet-trusted-keys")["data"].items():
        (tmp_path / name).write_text(text)
    assert len(TrustedKeys(tmp_path).read()) == 1


def test_engines_are_built_in_the_cache_for_the_gpu_that_serves():
    documents = feature("engines")
    fill, build = pod(documents)["initContainers"]
    assert volumes(documents)["models"] == {"persistentVolumeClaim": {"claimName": "engines"}}
    asked = does(fill)
    assert (asked.command, asked.repository, asked.target, asked.delete) == ("copy", "/source", "/models", True)
    assert mounts(fill)["source"] == ("/source", True, None)
    assert "python -m export build-engines --repository /models" in build["command"][-2]
    assert build["args"] == ["--level", "5"]
    assert build["resources"]["limits"]["nvidia.com/gpu"] == container(documents)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert build["image"] == container(documents)["image"] == "quartet:0.1.0-gpu-tensorrt"
    assert mounts(container(documents))["models"] == ("/models", True, None)


def test_a_gpu_is_asked_for_tolerated_and_used_or_else_nothing_serves():
    documents = feature("engines")
    assert settings(documents)["QUARTET_SERVE_DEVICE"] == "cuda"
    assert pod(documents)["runtimeClassName"] == "nvidia"
    slices = feature("mig")
    assert container(slices)["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == 1
    assert [toleration["key"] for toleration in pod(slices)["tolerations"]] == ["nvidia.com/gpu", "team"]
    assert "nvidia.com/gpu.product" in pod(slices)["nodeSelector"]
    assert "QUARTET_SERVE_DEVICE" not in settings(feature("default"))


def test_the_autoscaler_owns_the_replicas():
    assert one(feature("default"), "Deployment")["spec"]["replicas"] == 2
    for name, kind in (("autoscaling", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
        documents = feature(name)
        assert "replicas" not in one(documents, "Deployment")["spec"]
        assert one(documents, kind)["spec"]["scaleTargetRef"]["name"] == "quartet"


def test_the_autoscaler_looks_at_cpu_queue_and_predicted_wait():
    metrics = one(feature("autoscaling"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metrics[0]["resource"]["target"]["averageUtilization"] == 70
    found = {metric["pods"]["metric"]["name"]: metric["pods"]["target"]["averageValue"] for metric in metrics[1:]}
    assert found == {"quartet_queue_rows": "64", "quartet_predicted_wait_seconds": "50m"}
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.values.yaml").read_text())
    assert {rule["name"]["as"] for rule in adapter["rules"]["custom"]} == set(found)


def test_keda_asks_prometheus_for_the_pods_of_this_release_alone():
    cpu, queue, wait = one(feature("keda"), "ScaledObject")["spec"]["triggers"]
    assert cpu["metadata"] == {"value": "70"}
    assert (queue["metadata"]["threshold"], wait["metadata"]["threshold"]) == ("64", "0.05")
    assert queue["authenticationRef"] == wait["authenticationRef"] == {"name": "prometheus"}
    (pattern,) = set(re.findall(r'pod=~"([^"]+)"', queue["metadata"]["query"] + wait["metadata"]["query"]))
    assert re.fullmatch(pattern, "quartet-7d9c5b7f6-x2x9z")
    assert not re.fullmatch(pattern, "quartet-canary-7d9c5b7f6-x2x9z")


def test_a_disruption_takes_one_pod_at_a_time_and_pods_are_spread():
    documents = feature("default")
    assert one(documents, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    spread = pod(documents)["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_the_network_policy_lets_in_one_port_and_out_what_is_needed():
    policy = one(feature("networkpolicy"), "NetworkPolicy")["spec"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert "namespaceSelector" in ingress["from"][0]
    assert policy["egress"] == []
    pulls = one(feature("networkpolicy-pull"), "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for rule in pulls for port in rule["ports"]] == [53, 53, 9000]


def test_rules_and_dashboard_are_the_files_of_the_repository_with_the_objectives_chosen():
    documents = feature("observe")
    source = (DEPLOY / "prometheus" / "quartet.rules.yaml").read_text()
    for before, after in (
        ("vector(0.001)", "vector(0.005)"),
        ("vector(0.01)", "vector(0.05)"),
        ('le="0.25"', 'le="0.1"'),
        ("deploy/RUNBOOK.md", "https://wiki.example.com/quartet"),
    ):
        assert before in source
        source = source.replace(before, after)
    assert one(documents, "PrometheusRule")["spec"] == yaml.safe_load(source)
    board = one(documents, "ConfigMap", "quartet-dashboard")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["quartet.json"]) == json.loads((DEPLOY / "grafana" / "quartet.json").read_text())
    default = render({"prometheusRule": {"enabled": True}})
    assert one(default, "PrometheusRule")["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "quartet.rules.yaml").read_text())


def test_rollouts_are_remembered_on_a_claim_or_until_the_pod_goes(monkeypatch):
    documents = feature("rollout")
    assert volumes(documents)["rollouts"] == {"persistentVolumeClaim": {"claimName": "rollouts"}}
    assert mounts(container(documents))["rollouts"] == ("/rollouts", False, None)
    for name, value in settings(documents).items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert (str(read.rollout_state), read.rollout) == ("/rollouts", "canary:10 digits-cnn=shadow:20,canary:10")
    assert "emptyDir" in volumes(render({"rolloutState": {"enabled": True}}))["rollouts"]


def test_ingress_and_route_lead_to_the_service():
    (rule,) = one(feature("ingress"), "Ingress")["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "quartet", "port": {"name": "http"}}
    route = one(feature("httproute"), "HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    assert route["rules"][0]["backendRefs"] == [{"name": "quartet", "port": 8000}]


def test_a_canary_is_a_deployment_of_its_own_that_gets_its_share_of_the_requests():
    documents = feature("canary")
    route = one(documents, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert [(backend["name"], backend["weight"]) for backend in route] == [("quartet", 95), ("quartet-canary", 5)]
    assert container(documents)["image"] == "quartet:0.1.0-cpu"
    assert container(documents, "quartet-canary")["image"] == "quartet:0.2.0-cpu"
    assert settings(documents, "quartet-canary")["QUARTET_SERVE_INSTANCES"] == "2"
    assert container(documents, "quartet-canary")["envFrom"][0] == {"configMapRef": {"name": "quartet-canary"}}
    assert "initContainers" not in pod(documents)
    assert does(pod(documents, "quartet-canary")["initContainers"][0]).url.startswith("https://models.example.com/next.tar.gz#")
    tracks = [one(documents, "Service", name)["spec"]["selector"]["quartet/track"] for name in ("quartet", "quartet-canary")]
    assert tracks == ["stable", "canary"]


def test_what_clusters_differ_in_can_be_said():
    documents = feature("pods")
    spec = pod(documents, "vision")
    assert spec["priorityClassName"] == "serving"
    assert spec["serviceAccountName"] == "shared"
    assert "ServiceAccount" not in kinds(documents)
    assert "runAsUser" not in spec["securityContext"], "the platform chooses"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    service = container(documents, "vision")
    assert service["image"].startswith("registry.example.com/quartet@sha256:")
    assert {"name": "TZ", "value": "Europe/Oslo"} in service["env"]
    assert mounts(service)["extra"] == ("/etc/extra", False, None)
    assert one(documents, "Deployment", "vision")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%"
    assert one(documents, "Service", "vision")["spec"]["type"] == "LoadBalancer"


def test_helm_test_asks_each_track_through_its_service():
    tests = [document for document in feature("canary") if document["kind"] == "Pod"]
    urls = [document["spec"]["containers"][0]["args"][-1] for document in tests]
    assert urls == ["http://quartet:8000", "http://quartet-canary:8000"]
    assert all(document["metadata"]["annotations"]["helm.sh/hook"] == "test" for document in tests)


def test_a_package_of_the_chart_holds_rules_and_dashboard_themselves(tmp_path):
    helm_python.package(CHART, destination=tmp_path)
    (archive,) = tmp_path.iterdir()
    with helm_python.Chart.load(archive) as packed:
        manifests = packed.render({"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}, name="quartet")
    assert "QuartetDown" in manifests["quartet/templates/monitoring.yaml"]
    assert "Rows waiting" in manifests["quartet/templates/monitoring.yaml"]


def test_the_chart_has_the_version_of_the_code():
    version = re.search(r'^version = "(.+)"$', (DEPLOY.parent / "pyproject.toml").read_text(), re.MULTILINE)[1]
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (about["version"], about["appVersion"]) == (version, version)

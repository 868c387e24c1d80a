"""Which keys the custom resources we write may have, and of what type: no operator's schema lies in kubernetes-validate.

Written by hand from the operators' own types, for the fields in use; whatever else appears is refused.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

TEXT = {"type": "string"}
NUMBER = {"type": "integer", "minimum": 0}
YES_NO = {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANYTHING = {"type": "object"}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}


def keys(required: str = "", **properties: Schema) -> Schema:
    """An object with these keys alone; the `required` ones must be there."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def resource(version: str, spec: Schema) -> Schema:
    metadata = keys("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    return keys("apiVersion kind metadata spec", apiVersion={"const": version}, kind=TEXT, metadata=metadata, spec=spec)


SELECTOR = keys("matchLabels", matchLabels=TEXTS)
ENTRY = keys("name key", name=TEXT, key=TEXT)
TLS = keys(insecureSkipVerify=YES_NO, serverName=TEXT, ca=keys(secret=ENTRY), cert=keys(secret=ENTRY), keySecret=ENTRY)
ENDPOINTS = many(
    keys(
        "port path interval",
        port=TEXT,
        path=TEXT,
        interval=DURATION,
        scheme={"enum": ["http", "https"]},
        authorization=keys("credentials", type=TEXT, credentials=ENTRY),
        tlsConfig=TLS,
    )
)
REFERENCE = keys("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port=NUMBER, kind=TEXT, group=TEXT)
RULE = keys(
    "expr",
    record=TEXT,
    alert={"type": "string", "pattern": "^[A-Z]"},
    expr=TEXT,
    labels=TEXTS,
    annotations=TEXTS,
    **{"for": DURATION},
)
TRIGGER = keys(
    "type metadata",
    type={"enum": ["cpu", "prometheus"]},
    name=TEXT,
    metricType={"enum": ["Utilization", "AverageValue", "Value"]},
    metadata=TEXTS,
    authenticationRef=keys("name", name=TEXT, kind=TEXT),
)
FORMAT = keys("name", name=TEXT, version=TEXT, autoSelect=YES_NO, priority=NUMBER)

SCHEMAS: dict[str, Schema] = {
    "PodMonitor": resource(
        "monitoring.coreos.com/v1", keys("selector podMetricsEndpoints", selector=SELECTOR, podMetricsEndpoints=ENDPOINTS)
    ),
    "ServiceMonitor": resource("monitoring.coreos.com/v1", keys("selector endpoints", selector=SELECTOR, endpoints=ENDPOINTS)),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1", keys("groups", groups=many(keys("name rules", name=TEXT, interval=DURATION, rules=many(RULE))))
    ),
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        keys(
            "scaleTargetRef triggers",
            scaleTargetRef=keys("name", name=TEXT, kind=TEXT, apiVersion=TEXT),
            minReplicaCount=NUMBER,
            maxReplicaCount=NUMBER,
            pollingInterval=NUMBER,
            advanced=keys(horizontalPodAutoscalerConfig=keys(behavior=ANYTHING)),
            triggers=many(TRIGGER),
        ),
    ),
    "HTTPRoute": resource(
        "gateway.networking.k8s.io/v1",
        keys(
            "parentRefs rules",
            parentRefs=many(REFERENCE),
            hostnames=many(TEXT),
            rules=many(
                keys(
                    "matches backendRefs",
                    matches=many(keys(path=keys("type value", type={"enum": ["Exact", "PathPrefix"]}, value=TEXT))),
                    backendRefs=many(keys("name port", name=TEXT, port=NUMBER, weight={**NUMBER, "maximum": 1_000_000})),
                )
            ),
        ),
    ),
    # Containers and volumes are Kubernetes' own, and are checked as those of a Pod.
    "ServingRuntime": resource(
        "serving.kserve.io/v1alpha1",
        keys(
            "containers supportedModelFormats protocolVersions",
            annotations=TEXTS,
            supportedModelFormats=many(FORMAT),
            protocolVersions=many({"enum": ["v1", "v2", "grpc-v2"]}),
            multiModel=YES_NO,
            containers=many(ANYTHING),
            volumes=many(ANYTHING),
        ),
    ),
    "InferenceService": resource(
        "serving.kserve.io/v1beta1",
        keys(
            "predictor",
            predictor=keys(
                "model",
                minReplicas=NUMBER,
                maxReplicas=NUMBER,
                automountServiceAccountToken=YES_NO,
                enableServiceLinks=YES_NO,
                terminationGracePeriodSeconds=NUMBER,
                model=keys(
                    "modelFormat storageUri",
                    modelFormat=keys("name", name=TEXT, version=TEXT),
                    runtime=TEXT,
                    protocolVersion=TEXT,
                    storageUri=TEXT,
                ),
            ),
        ),
    ),
}


def faults(document: dict[str, Any]) -> list[str]:
    """What the operator would not know, each with its place."""
    errors = Draft202012Validator(SCHEMAS[document["kind"]]).iter_errors(document)
    return [f"{document['kind']} {'.'.join(map(str, error.path))}: {error.message}" for error in errors]

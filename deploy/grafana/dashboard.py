"""Makes the Grafana dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/quartet.json`.

A panel is a line below: its kind, title, unit and queries. A test keeps quartet.json equal to what this prints.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, PER_ROW = 8, 7, 3

# `All` of a job is the list of Quartet's own, so that processes of others are not shown among them.
PROCESS = 'namespace=~"$namespace",job=~"$job"'
MODEL = f'{PROCESS},model=~"$model"'


@dataclass(frozen=True)
class Panel:
    """`queries` are expressions by legend; `kind` is one of Grafana's panels."""

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"
    description: str = ""


def rate(metric: str, by: str, selector: str = MODEL) -> str:
    """Per second, summed up to the labels named."""
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str) -> str:
    """Of a histogram, over all models and pods chosen."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"


def mean(metric: str) -> str:
    """Of a histogram, by model."""
    return f"{rate(f'{metric}_sum', 'model')} / {rate(f'{metric}_count', 'model')}"


CACHE_HITS = rate("quartet_response_cache_hits_total", "model")

ROWS: dict[str, list[Panel]] = {
    "Traffic": [
        Panel("Requests by status", "reqps", {"{{status}}": rate("quartet_requests_total", "status")}),
        Panel("Requests by model", "reqps", {"{{model}} {{interface}}": rate("quartet_requests_total", "model, interface")}),
        Panel(
            "Error budget, burnt so many times too fast",
            "short",
            {
                "{{model}} 5 minutes": f"quartet:error_ratio:rate5m{{{MODEL}}} / scalar(quartet:slo_error_budget)",
                "{{model}} 1 hour": f"quartet:error_ratio:rate1h{{{MODEL}}} / scalar(quartet:slo_error_budget)",
            },
            description="1 uses the budget up in the period of the objective; an alert is sent at 14.4. Needs the recording rules.",
        ),
    ],
    "Latency": [
        Panel(
            "From the body's first byte to the answer",
            "s",
            {f"p{share * 100:g}": quantile(share, "quartet_request_seconds") for share in (0.5, 0.9, 0.99)},
        ),
        Panel(
            "p99 by stage",
            "s",
            {
                "waiting for a batch": quantile(0.99, "quartet_queue_seconds"),
                "computing a batch": quantile(0.99, "quartet_compute_seconds"),
                "the whole request": quantile(0.99, "quartet_request_seconds"),
            },
        ),
        Panel(
            "Requests by how long they took",
            "s",
            {"{{le}}": f"sum by (le) (increase(quartet_request_seconds_bucket{{{MODEL}}}[$__rate_interval]))"},
            "heatmap",
        ),
    ],
    "Batches": [
        Panel("Rows in a batch, mean", "short", {"{{model}}": mean("quartet_batch_rows")}),
        Panel(
            "Batches by rows",
            "short",
            {"{{le}}": f"sum by (le) (increase(quartet_batch_rows_bucket{{{MODEL}}}[$__rate_interval]))"},
            "heatmap",
        ),
        Panel(
            "Why batches leave",
            "ops",
            {"{{reason}}": rate("quartet_batches_total", "reason")},
            description="idle: a session was free; freed: one became free; full: no more rows fit; window: its time was over",
        ),
        Panel("Padding, mean share of a batch", "percentunit", {"{{model}}": mean("quartet_padding_share")}),
        Panel("Computing, share of the time by model", "percentunit", {"{{model}}": rate("quartet_compute_seconds_sum", "model")}),
        Panel("Rows computed", "rowsps", {"{{model}}": rate("quartet_batch_rows_sum", "model")}),
    ],
    "Queue and refusals": [
        Panel("Rows waiting", "short", {"{{model}}": f"sum by (model) (quartet_queue_rows{{{MODEL}}})"}),
        Panel(
            "A row that arrives now would wait",
            "s",
            {"{{model}} on {{instance}}": f"quartet_predicted_wait_seconds{{{MODEL}}}"},
        ),
        Panel(
            "Rows without an answer",
            "rowsps",
            {
                "{{reason}}": rate("quartet_dropped_rows_total", "reason"),
                "requests whose caller left": f"sum(rate(quartet_cancelled_requests_total{{{MODEL}}}[$__rate_interval]))",
            },
            description="queue and deadline: refused on arrival; expired: its time ended; abandoned: its caller left",
        ),
        Panel("Requests refused on arrival", "reqps", {"{{reason}}": rate("quartet_refused_requests_total", "reason")}),
    ],
    "Response cache": [
        Panel(
            "Answered from the cache",
            "percentunit",
            {"{{model}}": f"{CACHE_HITS} / ({CACHE_HITS} + {rate('quartet_response_cache_misses_total', 'model')})"},
            description="Nothing where --response-cache-bytes gives a model none",
        ),
        Panel("Kept", "bytes", {"{{model}}": f"sum by (model) (quartet_response_cache_bytes{{{MODEL}}})"}),
        Panel("Gone to make room", "ops", {"{{model}}": rate("quartet_response_cache_evictions_total", "model")}),
    ],
    "Keys": [
        Panel("Requests by key", "reqps", {"{{key}}": rate("quartet_key_requests_total", "key", PROCESS)}),
        Panel(
            "Turned away by key",
            "reqps",
            {"{{key}} {{reason}}": rate("quartet_key_refusals_total", "key, reason", PROCESS)},
            description="unauthorized: no known key; forbidden: not for that; rate, concurrency: the key's limits",
        ),
        Panel("Files that cannot be used", "short", {"{{file}} on {{instance}}": f"quartet_file_rejected{{{PROCESS}}}"}),
    ],
    "Models and versions": [
        Panel("What serves", "short", {"": f"quartet_model_info{{{MODEL}}}"}, "table"),
        Panel("Requests by version", "reqps", {"{{model}}:{{version}}": rate("quartet_requests_total", "model, version")}),
        Panel("Passed over since the start", "short", {"": f"quartet_artifacts_skipped_total{{{MODEL}}}"}, "table"),
        Panel("Versions loaded", "short", {"{{model}} {{result}}": f"sum by (model, result) (quartet_loads_total{{{MODEL}}})"}),
        Panel(
            "Loading a version, mean since the start",
            "s",
            {"{{model}}": " / ".join(f"sum by (model) (quartet_load_seconds_{part}{{{MODEL}}})" for part in ("sum", "count"))},
        ),
        Panel(
            "Sessions",
            "short",
            {
                "{{model}}:{{version}}": f"sum by (model, version) (quartet_sessions{{{MODEL}}})",
                "{{model}}:{{version}} lost": f"sum by (model, version) (quartet_sessions_lost_total{{{MODEL}}})",
            },
        ),
        Panel("Builds", "short", {"{{version}}": f"count by (version) (quartet_build_info{{{PROCESS}}})"}),
    ],
    "Drift": [
        Panel(
            "Stability index, largest of a model's features",
            "short",
            {"{{model}}:{{version}}": f"max by (model, version) (quartet_drift_psi_max{{{MODEL}}})"},
            description="Population stability index, last hour against the training rows: below 0.1 nothing, from 0.25 a shift",
        ),
        Panel(
            "Stability index by feature",
            "short",
            {"{{model}}:{{version}} {{feature}}": f"max by (model, version, feature) (quartet_drift_psi{{{MODEL}}})"},
        ),
        Panel(
            "Rows with a value like none in training",
            "percentunit",
            {
                "{{model}}:{{version}}": (
                    f"{rate('quartet_drift_outside_rows_total', 'model, version')}"
                    f" / {rate('quartet_drift_rows_total', 'model, version')}"
                )
            },
            description="below or above all training rows, an unknown category, a token or a missing value where training had none",
        ),
    ],
    "Remote store": [
        Panel("Not reached at the last look", "short", {"{{store}} by {{instance}}": f"quartet_store_unreachable{{{PROCESS}}}"}),
        Panel(
            "Looks and fetches",
            "ops",
            {"{{operation}} {{result}}": rate("quartet_store_operations_total", "operation, result", PROCESS)},
            description="look: at what the store has; fetch: of a version",
        ),
        Panel("Fetched", "Bps", {"{{instance}}": rate("quartet_store_bytes_total", "instance", PROCESS)}),
    ],
    "Rollouts": [
        Panel(
            "Share of the requests, or copies of them",
            "percentunit",
            {"{{model}}:{{version}} {{stage}}": f"max by (model, version, stage) (quartet_rollout_share{{{MODEL}}})"},
            description="shadow: of so many the version gets a copy, which answers nobody; canary: so many it answers",
        ),
        Panel(
            "Shadow: rows unlike those of the version that serves",
            "percentunit",
            {
                "{{model}}:{{version}} {{kind}}": f"{rate('quartet_shadow_unlike_rows_total', 'model, version, kind')} "
                f"/ on (model, version) group_left {rate('quartet_shadow_rows_total', 'model, version')}"
            },
            description="disagreeing: decided otherwise; differing: further apart than the tolerance, as retrained versions are",
        ),
        Panel(
            "Shadow: copies",
            "reqps",
            {"{{model}}:{{version}} {{result}}": rate("quartet_shadow_copies_total", "model, version, result")},
        ),
        Panel(
            "Shadow: largest difference",
            "short",
            {"{{model}}:{{version}}": f"max by (model, version) (quartet_shadow_difference{{{MODEL}}})"},
        ),
        Panel(
            "In this stage for",
            "s",
            {"{{model}}:{{version}}": f"time() - max by (model, version) (quartet_rollout_stage_start_time_seconds{{{MODEL}}})"},
        ),
        Panel(
            "Ended",
            "short",
            {"{{model}} {{result}}: {{cause}}": f"sum by (model, result, cause) (quartet_rollouts_total{{{MODEL}}})"},
        ),
    ],
    "Processes": [
        Panel("Cores used", "short", {"{{instance}}": rate("process_cpu_seconds_total", "instance", PROCESS)}),
        Panel("Resident memory", "bytes", {"{{instance}}": f"process_resident_memory_bytes{{{PROCESS}}}"}),
        Panel("Up for", "s", {"{{instance}}": f"time() - process_start_time_seconds{{{PROCESS}}}"}),
        Panel(
            "How late the event loop is, p99",
            "s",
            {"{{instance}}": f"histogram_quantile(0.99, {rate('quartet_event_loop_lag_seconds_bucket', 'instance, le', PROCESS)})"},
            description="What every request of a process waits for while something else has its event loop",
        ),
    ],
    "GPU": [
        Panel("GPU busy", "percentunit", {"{{instance}} {{gpu}}": f"quartet_gpu_utilization_ratio{{{PROCESS}}}"}),
        Panel("GPU memory used", "bytes", {"{{instance}} {{gpu}}": f"quartet_gpu_memory_used_bytes{{{PROCESS}}}"}),
        Panel("Power", "watt", {"{{instance}} {{gpu}}": f"quartet_gpu_power_watts{{{PROCESS}}}"}),
    ],
}


def dashboard() -> Json:
    """What Grafana imports."""
    panels: list[Json] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        for number, panel in enumerate(row):
            across, down = number % PER_ROW, number // PER_ROW
            place = {"x": across * WIDTH, "y": y + 1 + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_drawn(panel)})
        y += 1 + HEIGHT * -(-len(row) // PER_ROW)
    return {
        "uid": "quartet",
        "title": "Quartet",
        "tags": ["quartet"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                _variable("namespace", "label_values(quartet_build_info, namespace)", all_value=".*"),
                _variable("job", 'label_values(quartet_build_info{namespace=~"$namespace"}, job)'),
                _variable("model", f"label_values(quartet_model_info{{{PROCESS}}}, model)", all_value=".*"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "iconColor": "red",
                    "expr": 'ALERTS{alertname=~"Quartet.*",alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{model}} {{instance}}",
                }
            ]
        },
        "panels": panels,
    }


def _drawn(panel: Panel) -> Json:
    """A panel without its place."""
    table, heatmap = panel.kind == "table", panel.kind == "heatmap"
    drawn: Json = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": table,
                "range": not table,
                "format": "table" if table else "heatmap" if heatmap else "time_series",
            }
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
    if table:
        hidden = dict.fromkeys(("Time", "Value", "__name__", "job", "namespace", "endpoint", "container"), True)
        drawn["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    if heatmap:
        drawn["options"] = {"calculate": False, "yAxis": {"unit": panel.unit}, "color": {"scheme": "Oranges"}}
    return drawn


def _variable(name: str, query: str, all_value: str | None = None) -> Json:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": all_value,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")

"""The Pod Security Standard "restricted", as kubernetes.io/docs/concepts/security/pod-security-standards has it."""

from __future__ import annotations

from typing import Any

# `image` since 1.33, whatever the page says: kubernetes/kubernetes#130394.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image"}


def violations(pod: dict[str, Any]) -> list[str]:
    """What a namespace that enforces it would refuse of a pod's spec."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    for volume in pod.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in volume if kind != "name" and kind not in VOLUMES]
    whole = pod.get("securityContext", {})
    for each in [*pod.get("initContainers", []), *pod["containers"]]:
        own = each.get("securityContext", {})
        wanted = {
            "runAsNonRoot": own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True,
            "runAsUser": own.get("runAsUser", whole.get("runAsUser", 1)) != 0,
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "privileged": not own.get("privileged"),
            "capabilities": own.get("capabilities", {}).get("drop") == ["ALL"] and not own["capabilities"].get("add"),
            "seccompProfile": (own.get("seccompProfile") or whole.get("seccompProfile", {})).get("type") == "RuntimeDefault",
            "hostPort": not any("hostPort" in port for port in each.get("ports", [])),
        }
        found += [f"{each['name']}: {name}" for name, right in wanted.items() if not right]
    return found

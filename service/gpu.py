"""What the GPUs of the machine do, read through NVML: NVIDIA's nvidia-ml-py, where it is installed and finds a driver."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger("quartet.gpu")


class Reading(NamedTuple):
    """One value of a GPU: its name here and at Triton, and how it is had from `pynvml` and a device's handle."""

    name: str
    triton: str
    documentation: str
    read: Callable[[Any, Any], float]


READINGS = (
    Reading(
        "quartet_gpu_utilization_ratio",
        "nv_gpu_utilization",
        "Share of the last moments in which the GPU computed",
        lambda nvml, device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
    ),
    Reading(
        "quartet_gpu_memory_used_bytes",
        "nv_gpu_memory_used_bytes",
        "GPU memory in use, by whomever",
        lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).used,
    ),
    Reading(
        "quartet_gpu_memory_total_bytes",
        "nv_gpu_memory_total_bytes",
        "GPU memory there is",
        lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).total,
    ),
    Reading(
        "quartet_gpu_power_watts",
        "nv_gpu_power_usage",
        "Power that the GPU draws",
        lambda nvml, device: nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
    ),
    Reading(
        "quartet_gpu_power_limit_watts",
        "nv_gpu_power_limit",
        "Power that the GPU may draw",
        lambda nvml, device: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3,
    ),
)


class Gpu(NamedTuple):
    """What was read of one; what it does not tell, as a MIG slice its utilisation, is missing."""

    number: int
    uuid: str
    values: dict[Reading, float]


class Gpus(Collector):
    """All GPUs that the process sees. `read` is for a thread: a driver may take its time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._nvml: Any = None
        self.absent = False
        """Whether it is known that there is nothing to read."""
        self.found: list[Gpu] = []
        registry.register(self)

    @staticmethod
    def names() -> tuple[str, ...]:
        """Of all metrics, at Triton too: every worker reads the same GPUs."""
        return tuple(name for reading in READINGS for name in (reading.name, reading.triton))

    def read(self) -> None:
        """Ask every GPU. Never raises: without a driver there are none."""
        if self._nvml is None and not self.absent:
            self._begin()
        if self.absent:
            return
        nvml = self._nvml
        try:
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            self.found = [Gpu(number, nvml.nvmlDeviceGetUUID(device), self._of(device)) for number, device in enumerate(handles)]
        except nvml.NVMLError as error:
            self.found = []
            log.warning("the GPUs cannot be read: %s", error)

    def _begin(self) -> None:
        try:
            import pynvml  # the module of nvidia-ml-py: a service on CPUs does without
        except ImportError:
            self.absent = True
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            log.debug("no GPU to be read: %s", error)
            self.absent = True
            return
        self._nvml = pynvml

    def _of(self, device: object) -> dict[Reading, float]:
        values: dict[Reading, float] = {}
        for reading in READINGS:
            try:
                values[reading] = float(reading.read(self._nvml, device))
            except self._nvml.NVMLError_NotSupported:
                continue
        return values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For prometheus_client: what was last read."""
        if not self.found:
            return
        for reading in READINGS:
            family = GaugeMetricFamily(reading.name, reading.documentation, labels=("gpu", "uuid"))
            for gpu in self.found:
                if reading in gpu.values:
                    family.add_metric((str(gpu.number), gpu.uuid), gpu.values[reading])
            yield family

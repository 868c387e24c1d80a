"""GPUs read through NVML, whose driver is played here by functions of the same names."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.gpu import Gpus


@pytest.fixture
def driver(monkeypatch):
    """Two GPUs, one of them cut into slices, which tells no utilisation."""

    def utilisation(device):
        if device:
            raise pynvml.NVMLError_NotSupported
        return SimpleNamespace(gpu=40, memory=10)

    played = {
        "Init": lambda: None,
        "DeviceGetCount": lambda: 2,
        "DeviceGetHandleByIndex": lambda index: index,
        "DeviceGetUUID": lambda device: f"GPU-{device}",
        "DeviceGetUtilizationRates": utilisation,
        "DeviceGetMemoryInfo": lambda device: SimpleNamespace(total=1000, used=250, free=750),
        "DeviceGetPowerUsage": lambda device: 70_000,
        "DeviceGetEnforcedPowerLimit": lambda device: 700_000,
    }
    for name, function in played.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", function)  # raises where NVML has no such function


def test_every_gpu_is_read_and_what_one_does_not_tell_is_left_out(driver):
    registry = CollectorRegistry()
    gpus = Gpus(registry)
    assert generate_latest(registry) == b"", "nothing before the first look"
    gpus.read()
    lines = generate_latest(registry).decode().splitlines()
    assert 'quartet_gpu_utilization_ratio{gpu="0",uuid="GPU-0"} 0.4' in lines
    assert [line for line in lines if line.startswith("quartet_gpu_utilization_ratio{")] == lines[2:3]
    assert 'quartet_gpu_memory_used_bytes{gpu="1",uuid="GPU-1"} 250.0' in lines
    assert 'quartet_gpu_power_watts{gpu="1",uuid="GPU-1"} 70.0' in lines


def test_a_driver_that_stops_answering_is_told_of_and_asked_again(driver, monkeypatch, caplog):
    gpus = Gpus(CollectorRegistry())
    with monkeypatch.context() as patch:
        patch.setattr(pynvml, "nvmlDeviceGetCount", lambda: (_ for _ in ()).throw(pynvml.NVMLError_GpuIsLost()))
        gpus.read()
    assert gpus.found == []
    assert "the GPUs cannot be read" in caplog.text
    gpus.read()
    assert [gpu.uuid for gpu in gpus.found] == ["GPU-0", "GPU-1"]


def test_without_a_driver_there_are_none_and_nobody_asks_again(monkeypatch):
    def missing():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    gpus = Gpus(CollectorRegistry())
    gpus.read()
    assert gpus.absent
    assert gpus.found == []

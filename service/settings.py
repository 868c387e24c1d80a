"""All settings of the service, from the command line and the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from modelrepo.errors import QuartetError
from service.versions import VersionPolicy

# Not QUARTET_: Kubernetes gives the pods beside a Service called `quartet` variables such as QUARTET_PORT=tcp://10.0.0.1:80.
PREFIX = "QUARTET_SERVE_"


class SettingsError(QuartetError):
    """Settings that cannot be used; the message lists each with what is wrong."""


class Settings(BaseSettings):
    """Serve the newest version of every model in a repository.

    Each option may also be given in the environment: --max-queue-rows as QUARTET_SERVE_MAX_QUEUE_ROWS.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_prog_name="python -m service",
    )

    repository: Path = Field(description="model repository that `python -m export` published to")
    pull: str = Field(default="", description="archive to add to it before serving: https://HOST/models.tar.gz#sha256=HEX")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="cuda fails where no GPU can be used")
    versions: str = Field(default="latest:1", description="which serve: latest:N, all or 1,3; for one model: 'NAME=all'")
    watch: float = Field(default=0, ge=0, description="seconds between looks at the repository for new versions; 0: never")
    control: Literal["auto", "on", "off"] = Field(
        default="auto", description="whether callers may load and unload models; auto: where only this machine can call"
    )
    workers: int = Field(default=1, ge=1, le=64, description="processes that share the port, each with all models and its cores")
    instances: int = Field(
        default=0, ge=0, description="sessions of each model in a process, which run batches at once; 0: by the cores"
    )
    threads: int = Field(default=0, ge=0, description="cores one batch uses on the CPU; 0: what the sessions leave each other")
    max_queue_rows: int = Field(default=4096, ge=1, description="rows of one model that may wait; beyond it 429")
    max_queue_delay_ms: float = Field(default=0, ge=0, description="how long a batch waits for more rows; 0: not at all")
    timeout_ms: float = Field(default=30_000, ge=0, description="for a request that names no timeout of its own; 0: none")
    watchdog_seconds: float = Field(default=60, ge=0, description="a batch that runs longer has lost its session; 0: never")
    overload_status: Literal[429, 503] = Field(default=429, description="status of what is refused because too much waits")
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1, description="longest request body, unpacked; beyond it 413")
    max_header_bytes: int = Field(default=64 * 1024, ge=1024, description="longest request line and headers; beyond it 431")
    read_timeout: float = Field(default=30, gt=0, description="seconds a request may take to arrive; then it is cut off")
    drain_delay: float = Field(default=2, ge=0, description="seconds that it still answers, not ready, after SIGTERM")
    drain_seconds: int = Field(default=25, ge=0, description="seconds that requests in flight then get to finish")
    show_calls: bool = Field(default=False, description="print example calls once ready")

    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="TCP port of gRPC; 0 takes a free one; left out: no gRPC"
    )

    @field_validator("versions")
    @classmethod
    def _is_a_policy(cls, text: str) -> str:
        VersionPolicy.parse(text)
        return text

    @field_validator("grpc_port")
    @classmethod
    def _is_another(cls, port: int | None, others: ValidationInfo) -> int | None:
        if port and port == others.data.get("port"):
            raise ValueError("gRPC needs a port of its own, other than --port")
        return port


def read(arguments: list[str]) -> Settings:
    """Settings from the command line, then the environment, then the defaults.

    Raises SettingsError for values that cannot be used and for variables under our prefix that name no setting; exits with
    status 2, as argparse does, for unknown options.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown environment variable {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    try:
        return CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            name = str(fault["loc"][0])
            found = "" if fault["type"] == "missing" else f", not {fault['input']!r}"
            faults.append(f"--{name.replace('_', '-')} (or {PREFIX}{name.upper()}): {fault['msg']}{found}")
        raise SettingsError("; ".join(faults)) from None

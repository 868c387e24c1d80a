"""All settings of the service, from the command line and the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from modelrepo.errors import QuartetError
from modelrepo.store import is_url
from service import origins
from service.budget import Budget
from service.rollout.memory import Memory
from service.rollout.plan import Rules, limits
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

    repository: str = Field(description="model repository that `python -m export` published to: folder, or URL of one in a store")
    pull: str = Field(default="", description="archive to add to it before serving: https://HOST/models.tar.gz#sha256=HEX")
    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, description="TCP port of gRPC; 0 takes a free one; left out: no gRPC"
    )
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
    playground: bool = Field(default=True, description="the page at / that shows what the models do")

    # Rollouts
    rollout: str = Field(
        default="",
        description="how newer versions begin: shadow:20,canary:10 (percent); for one model 'NAME=canary:10'; else at once",
    )
    rollout_limits: str = Field(
        default="", description="when they go back or on by themselves: 'errors=0.01 mean=1.5 disagreements=0.02 promote=5000'"
    )
    rollout_state: Path | None = Field(
        default=None, validate_default=True, description="folder in which rollouts and their audit log outlive the process"
    )

    # What is told of it
    triton_metrics: bool = Field(default=False, description="/metrics also under the names of Triton Inference Server")
    log_format: Literal["text", "json"] = Field(default="text", description="json: an object a line, for collectors of logs")
    access_log: bool = Field(default=False, description="a line for each request, without its payload")
    response_cache_bytes: str = Field(
        default="0", description="answers kept for requests that come again, by process and model: BYTES or 'NAME=BYTES'; 0: none"
    )

    # Drift and capture
    drift_rows: int = Field(default=100, ge=0, description="rows of each model that are looked at in a second for drift; 0: none")
    drift_window: float = Field(default=3600, ge=1, description="seconds whose rows are held against the training rows")
    capture: Path | None = Field(
        default=None, description="folder for a sample of requests with their answers; none: nothing is kept"
    )
    capture_share: float = Field(default=0.01, gt=0, le=1, description="share of the requests that is kept there")
    capture_bytes: int = Field(default=2**30, ge=2**20, description="most that the folder may hold; the oldest files go first")
    capture_seconds: float = Field(default=300, gt=0, description="after which a file is finished, however short")

    # Who may ask, and how
    keys: Path | None = Field(
        default=None, description="file of API keys, made by `python -m service.keys`; none: everybody may ask"
    )
    cors_origins: str = Field(default="", description="sites whose pages may ask: 'https://a.example https://b.example', or *")
    tls_certificate: Path | None = Field(default=None, description="PEM with the certificate and its chain: HTTPS instead of HTTP")
    tls_key: Path | None = Field(default=None, description="PEM with its private key, where that is not in the same file")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM of who signs clients' certificates, without which none gets in"
    )
    health_port: int = Field(
        default=0, ge=0, le=65535, description="port where probes are answered in plain HTTP, and nothing else is; 0: none"
    )

    # Remote stores and signatures
    cache: str = Field(default="", validate_default=True, description="folder for copies, where --repository is a URL")
    cache_bytes: int = Field(default=8 * 1024**3, ge=1, description="most that those copies may take; those that serve never go")
    trusted_keys: str = Field(
        default="", description="public key, or folder of them (*.pem, *.pub): only versions that one of them signed serve"
    )

    @field_validator("rollout")
    @classmethod
    def _are_rules(cls, text: str) -> str:
        Rules.parse(text)
        return text

    @field_validator("rollout_limits")
    @classmethod
    def _are_limits(cls, text: str) -> str:
        limits(text)
        return text

    @field_validator("rollout_state")
    @classmethod
    def _outlives_where_it_must(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        """Without a folder a service that starts again knows a proven version only where `versions` names it."""
        if folder is None and "rollout" in info.data and "versions" in info.data:
            rules, policy = Rules.parse(info.data["rollout"]), VersionPolicy.parse(info.data["versions"])
            at_risk = [name for name, found in rules.by_model.items() if found and policy.named(name) is None]
            if at_risk or (rules.rule and policy.named("") is None):
                raise ValueError(
                    "--rollout needs a folder that outlives the process, as a start would not know which version is proven; or "
                    "name it, --versions 'NAME=3'"
                )
        return folder

    @field_validator("response_cache_bytes")
    @classmethod
    def _is_a_budget(cls, text: str) -> str:
        Budget.parse(text)
        return text

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        origins.parse(text)
        return text

    @field_validator("repository", "cache", "trusted_keys", mode="before")
    @classmethod
    def _is_written(cls, place: object) -> object:
        return str(place) if isinstance(place, Path) else place

    @field_validator("pull", "cache")
    @classmethod
    def _fits_the_repository(cls, value: str, info: ValidationInfo) -> str:
        remote = is_url(info.data.get("repository", ""))
        if info.field_name == "pull" and value and remote:
            raise ValueError("an archive is pulled into a folder, and --repository is a URL: give one of the two")
        if info.field_name == "cache" and remote and not value:
            raise ValueError("--repository is a URL: name a folder for copies of it")
        if info.field_name == "cache" and value and not remote:
            raise ValueError("--repository is a folder, of which no copies are made: leave this out")
        return value

    @field_validator("capture", mode="before")
    @classmethod
    def _is_a_folder_or_none(cls, given: object) -> object:
        """An empty variable is no folder, least of all this one."""
        return given or None

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

    @property
    def balanced(self) -> bool:
        """Whether connections are spread evenly over workers: gRPC's are few and busy, encrypted ones cannot change hands."""
        return self.grpc_port is None and self.tls_certificate is None

    def memory(self, meanwhile: Path | None = None) -> Memory:
        """Where rollouts are remembered; `meanwhile` is for workers of one service that has no folder. Raises MemoryFault."""
        lasting = self.rollout_state is not None
        folder = self.rollout_state or meanwhile
        copies = Path(self.cache if is_url(self.repository) else self.repository)
        return Memory(copies, VersionPolicy.parse(self.versions), Rules.parse(self.rollout), folder, lasting)


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

from __future__ import annotations

import pytest

from service import settings
from service.settings import SettingsError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("REPOSITORY", "PORT"):
        monkeypatch.delenv(settings.PREFIX + name, raising=False)


def test_the_command_line_beats_the_environment_beats_the_default(monkeypatch):
    monkeypatch.setenv("QUARTET_SERVE_PORT", "9000")
    monkeypatch.setenv("QUARTET_SERVE_MAX_QUEUE_ROWS", "10")
    chosen = settings.read(["--repository", "models", "--port", "9001"])
    assert (chosen.port, chosen.max_queue_rows, chosen.host) == (9001, 10, "127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"--repository \(or QUARTET_SERVE_REPOSITORY\): Field required"),
        (["--repository", "m", "--port", "70000"], r"--port \(or QUARTET_SERVE_PORT\): .*65535, not '70000'"),
        (["--repository", "m", "--device", "tpu"], "--device .*'auto', 'cpu' or 'cuda', not 'tpu'"),
        (["--repository", "m", "--response-cache-bytes", "64MB"], "--response-cache-bytes .*'64MB' is not BYTES or MODEL=BYTES"),
        (["--repository", "m", "--max-queue-rows", "0"], "--max-queue-rows .*greater than or equal to 1"),
        (
            ["--repository", "s3://m"],
            r"--cache \(or QUARTET_SERVE_CACHE\): .*is a URL: name a folder for copies of it",
        ),
        (["--repository", "m", "--cache", "c"], "--cache .*--repository is a folder, of which no copies are made: leave this out"),
        (["--repository", "s3://m", "--cache", "c", "--pull", "http://a"], "--pull .*give one of the two"),
    ],
)
def test_a_value_that_cannot_be_used_names_option_variable_and_value(arguments, message):
    with pytest.raises(SettingsError, match=message):
        settings.read(arguments)


def test_a_misspelt_variable_is_fatal(monkeypatch):
    monkeypatch.setenv("QUARTET_SERVE_PROT", "9000")
    with pytest.raises(SettingsError, match="unknown environment variable QUARTET_SERVE_PROT; known are .*QUARTET_SERVE_PORT"):
        settings.read(["--repository", "m"])


def test_variables_that_kubernetes_makes_for_a_service_called_quartet_do_no_harm(monkeypatch):
    monkeypatch.setenv("QUARTET_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("QUARTET_SERVICE_PORT", "80")
    assert settings.read(["--repository", "m"]).port == 8000


def test_a_misspelt_option_is_refused():
    with pytest.raises(SystemExit, match="2"):
        settings.read(["--repository", "m", "--prot", "1"])

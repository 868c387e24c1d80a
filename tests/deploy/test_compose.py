"""deploy/compose.yaml: as the specification has it, confined, and naming only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(name):
    """A file's content with the variables at their defaults and the merges done."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / name).read_text()))


@pytest.fixture(scope="module")
def services():
    return read("compose.yaml")["services"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml", "compose.keys.yaml", "compose.store.yaml"])
def test_the_files_are_what_the_specification_says(name):
    PyCompose.from_yaml(yaml.safe_dump(read(name)))


def test_a_misspelt_key_would_be_found():
    broken = read("compose.yaml")
    broken["services"]["quartet"]["read_onli"] = True
    with pytest.raises(ValueError, match="read_onli"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


def test_everything_is_confined_and_reachable_from_this_machine_alone(services):
    for service in services.values():
        assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def mounted(services):
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                yield source


def test_what_is_mounted_is_there(services):
    sources = set(mounted(services))
    assert sources >= {"../models", "../loadtests"}
    for source in sources - {"../models"}:  # `make models` makes it
        if not (DEPLOY / source).parents[0].is_dir():
            pytest.skip(f"deploy/{source} is not there yet")
        assert (DEPLOY / source).exists(), source


def test_with_keys_prometheus_has_the_same_configuration_and_shows_one():
    with_keys = read("compose.keys.yaml")["services"]
    assert "./prometheus/prometheus.keys.yml:/etc/prometheus/prometheus.yml:ro" in with_keys["prometheus"]["volumes"]
    plain, keyed = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("prometheus.yml", "prometheus.keys.yml")
    )
    shown = keyed["scrape_configs"][0].pop("authorization")
    assert keyed == plain
    assert f"../keys/prometheus:{shown['credentials_file']}:ro" in with_keys["prometheus"]["volumes"]
    folder = with_keys["quartet"]["volumes"][0]["target"]
    assert with_keys["quartet"]["environment"]["QUARTET_SERVE_KEYS"].startswith(f"{folder}/")


def test_images_are_pinned_and_targets_exist(services):
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "docker/Dockerfile").read_text(), re.MULTILINE))
    for service in [*services.values(), *read("compose.gpu.yaml")["services"].values()]:
        assert re.fullmatch(r"quartet:\d+\.\d+\.\d+-[a-z-]+|[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert service.get("build", {}).get("target", "cpu") in targets


def test_copies_of_a_store_lie_where_the_image_lets_its_user_write():
    store = read("compose.store.yaml")["services"]["quartet"]
    folder = store["environment"]["QUARTET_SERVE_CACHE"]
    assert [volume.split(":")[1] for volume in store["volumes"]] == [folder]
    assert f"install --directory --owner 10001 --group 10001 {folder}\n" in (DEPLOY / "docker/Dockerfile").read_text()


def test_there_is_time_to_drain(services):
    from service.settings import Settings

    longest = Settings.model_fields["drain_delay"].default + Settings.model_fields["drain_seconds"].default
    assert int(services["quartet"]["stop_grace_period"].removesuffix("s")) > longest

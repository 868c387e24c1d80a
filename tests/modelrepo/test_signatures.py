"""Signatures: what one key said of one version, and nothing else, is valid."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from modelrepo.__main__ import main
from modelrepo.errors import UntrustedVersion
from modelrepo.manifest import MANIFEST, EngineSet
from modelrepo.repository import Repository, add_engines
from modelrepo.signatures import (
    SIGNATURES,
    KeyFailure,
    Signatures,
    Statement,
    TrustedKeys,
    generate,
    key_id,
    private_key,
    public_path,
    signed,
)
from tests import micro

NONE = Signatures(signatures=())


@pytest.fixture
def keys(tmp_path):
    """Two private keys."""
    paths = tmp_path / "one", tmp_path / "other"
    for path in paths:
        generate(path)
    return paths


@pytest.fixture
def root(tmp_path, keys):
    """double:1, signed by the first key, and double:2."""
    root = tmp_path / "models"
    micro.publish_double(root)
    micro.publish_double(root)
    assert main(["sign", str(root), "double:1", "--key", str(keys[0])]) == 0
    return root


def trusting(root, *keys):
    folder = root.parent / "trusted"
    folder.mkdir(exist_ok=True)
    for key in keys:
        shutil.copy(public_path(key), folder / f"{key.name}.pub")
    return Repository(root, TrustedKeys(folder))


def test_only_what_a_trusted_key_signed_can_be_opened(root, keys):
    trusted = trusting(root, keys[0])
    assert trusted.open("double", 1).version == 1
    with pytest.raises(UntrustedVersion, match=r"double:2 is not signed, and not by a key in .*trusted: sign it with"):
        trusted.open("double", 2)
    assert Repository(root).open("double", 2).version == 2, "nobody asked"
    with pytest.raises(UntrustedVersion, match=f"double:1 is signed by {key_id(private_key(keys[0]).public_key())[:16]} only"):
        Repository(root, TrustedKeys(public_path(keys[1]))).open("double", 1)


@pytest.mark.parametrize("attack", ["altered manifest", "another number", "another name"])
def test_a_signature_is_of_one_manifest_under_one_name_and_number(root, keys, attack):
    signed_ = root / "double/1"
    if attack == "altered manifest":
        text = (signed_ / MANIFEST).read_text()
        (signed_ / MANIFEST).write_text(text.replace('"a"', '"b"', 1).replace('"b",\n      "b"', '"b",\n      "a"'))
        name, version = "double", 1
    else:
        name, version = ("double", 3) if attack == "another number" else ("mean", 1)
        (root / name).mkdir(exist_ok=True)
        signed_.rename(root / name / str(version))
    with pytest.raises(UntrustedVersion, match=f"{name}:{version} is not what .* signed: it was altered, renamed or renumbered"):
        trusting(root, keys[0]).open(name, version)


def test_several_keys_may_sign_and_any_trusted_one_will_do(root, keys):
    assert main(["sign", str(root), "double:1", "--key", str(keys[1])]) == 0
    assert main(["sign", str(root), "double:1", "--key", str(keys[1])]) == 0, "again"
    assert len(Signatures.from_json((root / "double/1" / SIGNATURES).read_bytes(), "").signatures) == 2
    for key in keys:
        assert Repository(root, TrustedKeys(public_path(key))).open("double", 1).version == 1


def test_a_key_is_added_and_withdrawn_by_its_file(root, keys):
    trusted = trusting(root, *keys)
    trusted.open("double", 1)
    (root.parent / "trusted/one.pub").unlink()
    with pytest.raises(UntrustedVersion):
        trusted.open("double", 1)
    (root.parent / "trusted/other.pub").unlink()
    with pytest.raises(KeyFailure, match="trusted holds no keys"):
        trusted.open("double", 1)


def test_engines_that_were_added_need_a_signature_of_their_own(root, keys, caplog):
    version = Repository(root).open("double", 1)
    (root.parent / "model.plan").write_bytes(b"an engine")
    engine = micro.engine(root.parent / "model.plan")
    add_engines(version, EngineSet(key="sm89", engines=(engine,), candidates=(micro.candidate(engine),)), root.parent)
    trusted = trusting(root, keys[0])
    assert trusted.open("double", 1).engines == ()
    assert "sm89 is not used: the set of engines added to double:1 is not signed" in caplog.text
    assert main(["sign", str(root), "double:1", "--key", str(keys[0])]) == 0
    assert len(trusted.open("double", 1).engines) == 1


def test_keys_made_by_openssl_sign_too(root, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
        ["pkey", "-in", "key.pem", "-pubout", "-out", "key.pub"],
    ):
        subprocess.run([openssl, *command], cwd=tmp_path, check=True, capture_output=True)
    assert main(["sign", str(root), "double:2", "--key", str(tmp_path / "key.pem")]) == 0
    assert Repository(root, TrustedKeys(tmp_path / "key.pub")).open("double", 2).version == 2


def test_keys_that_cannot_be_used_are_refused_with_the_remedy(tmp_path, keys):
    with pytest.raises(KeyFailure, match=r"one cannot be made \(File exists\): give another name"):
        generate(keys[0])
    assert keys[0].stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFailure, match=r"one\.pub is no private key to sign with"):
        private_key(public_path(keys[0]))
    with pytest.raises(KeyFailure, match="one holds no keys"):
        TrustedKeys(keys[0])
    with pytest.raises(KeyFailure, match="nowhere holds no public key"):
        TrustedKeys(tmp_path / "nowhere")


def test_a_file_that_holds_no_signatures_is_refused(root, keys):
    (root / "double/1" / SIGNATURES).write_text("{}")
    with pytest.raises(UntrustedVersion, match=r"manifest\.sig is no file of signatures \(Field required\): remove it and sign"):
        trusting(root, keys[0]).open("double", 1)
    statement = Statement("version", "double", 1, b"{}")
    known = signed(statement, private_key(keys[0]), NONE)
    assert known.joined(signed(statement, private_key(keys[1]), NONE)).signatures[0] == known.signatures[0]

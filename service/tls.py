"""HTTPS: the certificate, and who signs those of clients."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from modelrepo.errors import QuartetError
from service.metrics import Metrics
from service.settings import Settings
from service.watched import Watched

log = logging.getLogger("quartet.tls")


class TlsError(QuartetError):
    """A certificate that cannot be used; the message names the file."""


class Tls:
    """The files, which it follows: connections made after a renewal get the new certificate, the others go on.

    Who signs clients' certificates is read once: OpenSSL can add to those it trusts, and take none away.
    """

    def __init__(self, certificate: Path, key: Path | None, client_ca: Path | None, metrics: Metrics) -> None:
        """Raises TlsError where they cannot be used."""
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._watched = Watched(certificate, *([] if key is None else [key]))
        self._rejected = metrics.rejected.labels("tls")
        self._rejected.set(0)
        trial = self._trial()
        if client_ca is not None:
            try:
                trial.load_verify_locations(client_ca)
            except (OSError, ssl.SSLError) as error:
                raise TlsError(f"--tls-client-ca {client_ca}: {_reason(error)}: give a PEM of certificates") from None

    def options(self) -> dict[str, Any]:
        """For uvicorn. Without a certificate that `client_ca` signed, no client gets as far as HTTP."""
        found: dict[str, Any] = {"ssl_certfile": self._certificate, "ssl_keyfile": self._key}
        if self._client_ca is not None:
            found |= {"ssl_ca_certs": self._client_ca, "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return found

    def refresh(self, context: ssl.SSLContext) -> None:
        """Take up a certificate that was renewed; one that cannot be used changes nothing, and is told of once."""
        if not self._watched.changed():
            return
        try:
            self._trial()
            context.load_cert_chain(self._certificate, self._key)
        except (TlsError, OSError, ssl.SSLError) as error:
            log.error("the certificate stays as it was: %s", error)
            self._rejected.set(1)
        else:
            log.info("%s is read again", self._certificate)
            self._rejected.set(0)

    def _trial(self) -> ssl.SSLContext:
        """A context of its own with these files: one that is in use may end up with half of them. Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        files = f"--tls-certificate {self._certificate}" + (f" and --tls-key {self._key}" if self._key else "")
        try:
            context.load_cert_chain(self._certificate, self._key, _no_password)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"{files}: {_reason(error)}") from None
        return context


def of(settings: Settings, metrics: Metrics) -> Tls | None:
    """What the settings ask for; None for plain HTTP. Raises TlsError."""
    if settings.tls_certificate is not None:
        return Tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca, metrics)
    for name in ("tls_key", "tls_client_ca"):
        if getattr(settings, name) is not None:
            raise TlsError(f"--{name.replace('_', '-')} is for HTTPS: give --tls-certificate too")
    return None


def _no_password() -> str:
    """OpenSSL would ask for one at the terminal, which nobody may be sitting at."""
    raise TlsError("the private key is encrypted: decrypt it with `openssl pkey -in KEY -out PLAIN`, readable by the service alone")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        mismatch = "the key is not that of the certificate"
        return mismatch if error.reason == "KEY_VALUES_MISMATCH" else f"no PEM of a certificate and its key ({error.reason})"
    return error.strerror or str(error)

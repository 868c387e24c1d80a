"""TLS for gRPC, from the files that HTTPS has: a renewed certificate is shown to new connections."""

from __future__ import annotations

import grpc

from service.settings import Settings
from service.watched import Watched


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """What the settings ask for; None for a port without TLS. HTTPS has tried the files before.

    A renewal that cannot be read changes nothing here; HTTPS, which follows the same files, tells of it.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key or settings.tls_certificate, settings.tls_client_ca
    if certificate is None or key is None:
        return None
    authority = None if client_ca is None else client_ca.read_bytes()
    watched = Watched(certificate, key)

    def read() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())], authority)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None leaves it as it is."""
        try:
            return read() if watched.changed() else None
        except OSError:
            return None

    # The stubs do not know that None is an answer.
    return grpc.dynamic_ssl_server_credentials(read(), renewed, authority is not None)  # type: ignore[arg-type]

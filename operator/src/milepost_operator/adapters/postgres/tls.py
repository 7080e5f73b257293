"""TLS to Postgres."""

import ssl
from typing import TypedDict

from milepost_operator.settings import Settings


class TlsArguments(TypedDict, total=False):
    ssl: ssl.SSLContext


def tls_arguments(settings: Settings) -> TlsArguments:
    """With a CA of ours the server's certificate and name are checked; without one the address's sslmode decides."""
    if settings.database_ca_file is None:
        return {}
    return {"ssl": ssl.create_default_context(cafile=str(settings.database_ca_file))}

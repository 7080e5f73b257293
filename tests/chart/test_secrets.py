"""What the chart generates: it is random, strong, agrees with itself, and TLS and Postgres take it."""

import os
import re
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.chart import helm

pytestmark = pytest.mark.timeout(900)  # the first use may build helm
NOBODY = 65534
# The wheel of the other tests has no TLS, so a distribution's Postgres serves here.
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def test_every_rendering_makes_other_secrets() -> None:
    one, two = helm.render({}), helm.render({})
    for item in helm.of_kind(one, "Secret"):
        name = item["metadata"]["name"]
        mine, other = helm.secret(one, name), helm.secret(two, name)
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            assert value != other[key], f"{name}/{key}"


@pytest.mark.parametrize("values", [helm.OWN_SECRETS, helm.MINIMAL], ids=["own-secrets", "minimal"])
def test_nothing_random_is_left_where_values_bring_all(values: helm.Values) -> None:
    assert helm.render(values) == helm.render(values), "each upgrade would restart the pods"


def test_one_rendering_agrees_with_itself() -> None:
    objects = helm.variant("default")
    authority = helm.one(objects, "ConfigMap", "milepost-ca")["data"]["ca.crt"].strip()
    for name in ("milepost-tls", "milepost-postgres-tls"):
        assert helm.secret(objects, name)["ca.crt"].strip() == authority
    assert helm.secret(objects, "milepost-ca")["tls.crt"].strip() == authority
    database = helm.secret(objects, "milepost-database")
    assert f":{database['password']}@milepost-postgres.milepost-system.svc:5432/" in database["url"]


def test_secrets_are_strong() -> None:
    keys = helm.secret(helm.variant("default"), "milepost-keys")
    assert len(keys["session-key"]) >= 32
    assert re.fullmatch(r"admin:\*:[A-Za-z0-9]{40}\n", keys["api-tokens"])
    assert re.fullmatch(r"[A-Za-z0-9]{40}", helm.secret(helm.variant("default"), "milepost-database")["password"])


@pytest.mark.parametrize(("name", "host"), [("milepost-tls", "api"), ("milepost-postgres-tls", "postgres")])
def test_certificates_are_good_for_their_service(name: str, host: str, tmp_path: Path) -> None:
    data = helm.secret(helm.variant("default"), name)
    for key, value in data.items():
        (tmp_path / key).write_text(value)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    for wanted in (f"milepost-{host}.milepost-system.svc", f"milepost-{host}.milepost-system.svc.cluster.local"):
        assert handshake(server_side, tmp_path / "ca.crt", wanted) is None
    refused = handshake(server_side, tmp_path / "ca.crt", "milepost-api.elsewhere.svc")
    assert refused is not None
    assert "mismatch" in refused


def handshake(server_side: ssl.SSLContext, authority: Path, host: str) -> str | None:
    """Shake hands in memory with strict checks, as Python 3.13 does by default; the text of a refusal."""
    client_side = ssl.create_default_context(cafile=str(authority))
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


@pytest.fixture
def database() -> Iterator[tuple[int, Path]]:
    """A Postgres that runs with the chart's own arguments, access file, certificates and password: port and CA."""
    objects = helm.variant("default")
    port = 21000 + os.getpid() % 10000
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        home = Path(scratch)
        files = {
            **helm.secret(objects, "milepost-postgres-tls"),
            "password": helm.secret(objects, "milepost-database")["password"],
            **helm.one(objects, "ConfigMap", "milepost-postgres")["data"],
        }
        for name, text in files.items():
            (home / name).write_text(text)
            (home / name).chmod(0o600)
        if os.geteuid() == 0:
            for path in (home, *home.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        container = helm.containers(objects)["StatefulSet/milepost-postgres/postgres"]
        args = [
            arg.replace("/etc/postgresql-config", scratch).replace("/etc/postgresql-secrets", scratch)
            for arg in container["args"][1:]
        ]
        args += ["-c", f"unix_socket_directories={scratch}", "-c", f"port={port}"]
        program(home, "initdb", "--username=milepost", f"--pwfile={home / 'password'}", "-D", str(home / "data"))
        server = ["-D", str(home / "data"), "-l", str(home / "log"), "-w"]
        program(home, "pg_ctl", *server, "-o", " ".join(args), "start")
        try:
            yield port, home / "ca.crt"
        finally:
            program(home, "pg_ctl", *server, "-m", "fast", "stop")


def program(home: Path, name: str, *words: str) -> None:
    assert PROGRAMS is not None
    user = NOBODY if os.geteuid() == 0 else None
    argv = [str(PROGRAMS / name), *words]
    done = subprocess.run(argv, user=user, cwd=home, capture_output=True, text=True, timeout=60, check=False)
    log = home / "log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")


@pytest.mark.skipif(PROGRAMS is None, reason="needs a Postgres with TLS (Debian's package postgresql)")
async def test_database_takes_the_generated_address_by_tls_only(database: tuple[int, Path]) -> None:
    port, authority = database
    url = helm.secret(helm.variant("default"), "milepost-database")["url"]
    local = url.replace("milepost-postgres.milepost-system.svc:5432/milepost", f"localhost:{port}/postgres")
    assert local != url
    trusting = ssl.create_default_context(cafile=str(authority))
    session = await asyncpg.connect(local, ssl=trusting)
    try:
        assert await session.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        assert await session.fetchval("show fsync") == "on"
        assert await session.fetchval("show shared_buffers") == "64MB"
    finally:
        await session.close()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"no pg_hba\.conf entry"):
        await asyncpg.connect(local, ssl=False)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(local, ssl=ssl.create_default_context())
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(local, password="wrong", ssl=trusting)

"""An S3 server of our own, over plain directories: the true protocol, on a free port of this machine."""

import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from e2e.cluster.binaries import versitygw_program
from e2e.cluster.shell import Problem, wait_until
from milepost_operator.settings import Settings
from tests.apiserver import DIE_WITH_US, HOST, free_ports

BUCKET = "values"
KEY_ID, SECRET = "tester", "tester-secret-0123456789"
START_SECONDS = 30.0


class ObjectStorage:
    """One server below `home`; what is stored is files below `bucket`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        (self._port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None
        self.bucket = home / "data" / BUCKET
        self.bucket.mkdir(parents=True)
        (home / "meta").mkdir()
        (home / "key-id").write_text(f"{KEY_ID}\n")
        (home / "secret").write_text(f"{SECRET}\n")

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self._port}"

    def settings(self, base: Settings, **changes: object) -> Settings:
        """Those settings, with this storage."""
        own = {
            "object_storage_bucket": BUCKET,
            "object_storage_endpoint": self.endpoint,
            "object_storage_key_id_file": self._home / "key-id",
            "object_storage_secret_key_file": self._home / "secret",
            "object_storage_prefix": "milepost/",
        }
        return base.model_copy(update=own | changes)

    def objects(self) -> list[str]:
        """Keys, less that of the probe."""
        files = (path for path in self.bucket.rglob("*") if path.is_file())
        keys = sorted(str(path.relative_to(self.bucket)) for path in files)
        return [key for key in keys if not key.startswith((".", "milepost/milepost-check"))]

    def empty(self) -> None:
        """Forget all that is stored."""
        for key in self.objects():
            (self.bucket / key).unlink()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers. Raises Problem."""
        wrap = DIE_WITH_US if shutil.which(DIE_WITH_US[0]) else ()
        flags = ["--access", KEY_ID, "--secret", SECRET, "--port", f"{HOST}:{self._port}", "--quiet"]
        command = [*wrap, versitygw_program(), *flags, "posix", "--sidecar", self._home / "meta", self._home / "data"]
        log = self._home / "log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out)

        def ready() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise Problem(f"the S3 server ended while it started:\n{log.read_text()}")
            try:
                urllib.request.urlopen(self.endpoint, timeout=2).close()
            except urllib.error.HTTPError:  # it refuses whoever has no key
                return True
            except OSError:
                return False
            return True

        wait_until("an S3 server", ready, START_SECONDS)

    def kill(self) -> None:
        """Have it gone at once; what it acknowledged stays."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

"""Port `Bucket`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import aiohttp

from milepost_operator.adapters.s3.config import CA, BucketConfig, KeyFiles, tls_of
from milepost_operator.adapters.s3.errors import from_answer
from milepost_operator.adapters.s3.signing import EMPTY, UNSIGNED, encoded, signed_headers
from milepost_operator.domain.errors import StorageError, UnavailableError

CONNECT_SECONDS: Final = 5.0
TRANSFER_SECONDS: Final = 300.0
"""For an object, from its first byte to its last."""
CHUNK: Final = 65_536
CONNECTIONS: Final = 64
MAX_ANSWER: Final = 16_384
"""Bytes of a refusal that are read."""
_ERRORS_FROM: Final = 300
_NOT_FOUND: Final = 404


class S3Bucket:
    """One bucket, for one event loop: `async with`. Nothing is retried here: who has the value does that."""

    def __init__(self, config: BucketConfig) -> None:
        self._config = config
        self._keys = KeyFiles(config)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Raises StorageError when the CA can't be used."""
        connector = aiohttp.TCPConnector(ssl=tls_of(self._config) or True, limit=CONNECTIONS)
        timeout = aiohttp.ClientTimeout(total=TRANSFER_SECONDS, sock_connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def put(self, key: str, size: int, pieces: AsyncIterator[bytes]) -> None:
        failed: list[BaseException] = []

        async def body() -> AsyncIterator[bytes]:
            try:
                async for piece in pieces:
                    yield piece
            except Exception as error:
                failed.append(error)  # told as it is, and not as what it does to the request
                raise

        headers = {"content-length": str(size), "content-type": "application/json"}
        try:
            async with self._request("PUT", key, headers, UNSIGNED, body()):
                pass
        except UnavailableError as error:
            if failed:
                raise failed[0] from error
            raise

    async def get(self, key: str) -> AsyncIterator[bytes]:
        asked = self._request("GET", key, {}, EMPTY)
        response = await asked.__aenter__()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in response.content.iter_chunked(CHUNK):
                    yield piece
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise UnavailableError(f"an object broke off: {str(error) or type(error).__name__}") from error
            finally:
                await asked.__aexit__(None, None, None)

        return pieces()

    async def delete(self, key: str) -> None:
        async with self._request("DELETE", key, {}, EMPTY, absent=True):
            pass

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        key: str,
        headers: dict[str, str],
        payload: str,
        body: AsyncIterator[bytes] | None = None,
        *,
        absent: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`absent`: an object that is not there is a success."""
        config, session = self._config, self._session
        if session is None:
            raise RuntimeError("enter it first: async with S3Bucket(...)")
        path = config.base + encoded(key)
        now = datetime.now(UTC)
        sent = signed_headers(method, config.host, path, headers, payload, self._keys.credentials(), config.region, now)
        url = f"{config.scheme}://{config.host}{path}"
        what = f"{method} of an object in bucket {config.bucket}"
        try:
            async with session.request(method, url, headers=sent, data=body, allow_redirects=False) as response:
                if response.status >= _ERRORS_FROM and not (absent and response.status == _NOT_FOUND):
                    raise from_answer(response.status, await response.content.read(MAX_ANSWER), what)
                yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise StorageError(f"the certificate of {config.host} is not trusted: {error}; look at {CA}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            said = str(error) or type(error).__name__
            raise UnavailableError(f"the object storage can't be reached: {what}: {said}", 2.0) from error

"""Bearer tokens of the public API, from a file of lines `name:namespace:token` (namespace `*`: any)."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from milepost_operator.api.sessions import KeyFileError
from milepost_operator.domain.errors import ForbiddenError, UnauthenticatedError
from milepost_operator.obs.logging import get_logger

MIN_TOKEN_CHARS: Final = 16
DEFAULT_NAMESPACE: Final = "default"
_FIELDS: Final = 3

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls the public API. `namespace` None: may name any."""

    name: str
    namespace: str | None

    def namespace_for(self, named: str | None) -> str:
        """The namespace to act in: the credential's own. ForbiddenError when another one is named."""
        if self.namespace is None:
            return named or DEFAULT_NAMESPACE
        if named is not None and named != self.namespace:
            raise ForbiddenError(f"this token is of namespace {self.namespace!r} and can't act in {named!r}")
        return self.namespace


class ApiTokens:
    """The callers by the SHA-256 of their tokens. Without a file nobody is let in."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._text = ""
        self._callers: list[tuple[bytes, Caller]] = []
        if file is not None:
            self._text = _read(file)
            self._callers = parse_tokens(self._text, str(file))

    def caller(self, token: str) -> Caller:
        """Who this token is of. UnauthenticatedError. Takes the same time for every token."""
        digest = hashlib.sha256(token.encode()).digest()
        found: Caller | None = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise UnauthenticatedError("not a token of this API")
        return found

    def reload(self) -> None:
        """Take up a changed file; a broken one changes nothing and is logged, so that a typo locks nobody out."""
        if self._file is None:
            return
        try:
            text = _read(self._file)
            if text != self._text:
                self._callers = parse_tokens(text, str(self._file))
                self._text = text
                _log.info("api_tokens_reloaded", callers=len(self._callers))
        except KeyFileError as error:
            _log.error("api_tokens_unusable", error=str(error))


def parse_tokens(text: str, source: str) -> list[tuple[bytes, Caller]]:
    """Parse the file's text; `#` starts a comment line. Raises KeyFileError; never repeats a token in its message."""
    callers: list[tuple[bytes, Caller]] = []
    names: set[str] = set()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        parts = line.split(":", _FIELDS - 1)
        if len(parts) != _FIELDS or not parts[0] or not parts[1]:
            raise KeyFileError(f"{source} line {number}: expected name:namespace:token (namespace * for any)")
        name, namespace, token = parts
        if len(token) < MIN_TOKEN_CHARS or any(c.isspace() for c in token):
            raise KeyFileError(
                f"{source} line {number}: the token of {name!r} needs {MIN_TOKEN_CHARS} characters or more"
            )
        digest = hashlib.sha256(token.encode()).digest()
        if name in names or any(digest == known for known, _ in callers):
            raise KeyFileError(f"{source} line {number}: the name {name!r} or its token is there twice")
        names.add(name)
        callers.append((digest, Caller(name, None if namespace == "*" else namespace)))
    if not callers:
        raise KeyFileError(f"{source} holds no token: add lines name:namespace:token, or unset MILEPOST_API_TOKEN_FILE")
    return callers


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the API token file {file} can't be read: {error}") from error

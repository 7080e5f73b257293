"""What a storage answers besides success, in our family: what to change is named as the chart's values name it."""

import re
from typing import Final

from milepost_operator.domain.errors import MilepostError, NotFoundError, StorageError, UnavailableError

_CODE: Final = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_MESSAGE: Final = re.compile(rb"<Message>([^<]{1,300})</Message>")
_NOT_NOW: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_KEY: Final = "NoSuchKey"
_SETTINGS: Final = {
    "NoSuchBucket": "objectStorage.bucket",
    "InvalidBucketName": "objectStorage.bucket",
    "PermanentRedirect": "objectStorage.region and objectStorage.endpoint",
    "AuthorizationHeaderMalformed": "objectStorage.region",
    "IllegalLocationConstraintException": "objectStorage.region",
    "InvalidAccessKeyId": "objectStorage.existingSecret (access-key-id)",
    "XAdminUserNotFound": "objectStorage.existingSecret (access-key-id)",  # as Versity says it
    "SignatureDoesNotMatch": "objectStorage.existingSecret (secret-access-key)",
    "AccessDenied": "objectStorage.existingSecret, or what its keys may do in the bucket",
    "RequestTimeTooSkewed": "the clock of the api's node",
}
"""What is wrong where a storage answers so."""


def from_answer(status: int, body: bytes, what: str) -> MilepostError:
    """The error of an answer that is no success. `what`: what was asked, as `PUT of an object in bucket b`."""
    found, told = _CODE.search(body), _MESSAGE.search(body)
    code = found[1].decode() if found else {301: "PermanentRedirect", 403: "AccessDenied"}.get(status, "")
    said = f"{status} {code}" + (f": {told[1].decode(errors='replace')}" if told else "")
    if code == _NO_KEY:
        return NotFoundError(f"the object storage has lost an object: {what} was answered {said}")
    if status in _NOT_NOW:
        return UnavailableError(f"the object storage can't answer now: {what} was answered {said}", 2.0)
    wrong = _SETTINGS.get(code, "objectStorage")
    return StorageError(f"the object storage refuses us: {what} was answered {said}; look at {wrong}")

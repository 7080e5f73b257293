"""The signature, as the documentation of Amazon S3 works it out (API reference, "Examples: Signature Calculations")."""

from datetime import UTC, datetime

from milepost_operator.adapters.s3.signing import EMPTY, Credentials, encoded, signed_headers

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "examplebucket.s3.amazonaws.com"


def test_a_get() -> None:
    found = signed_headers("GET", HOST, "/test.txt", {"range": "bytes=0-9"}, EMPTY, KEYS, "us-east-1", NOW)
    assert found["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_put() -> None:
    headers = {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    digest = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
    path = f"/{encoded('test$file.text')}"
    found = signed_headers("PUT", HOST, path, headers, digest, KEYS, "us-east-1", NOW)
    assert path == "/test%24file.text"
    assert found["authorization"].endswith("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")

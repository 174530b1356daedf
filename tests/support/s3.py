"""An S3 server on loopback: moto's, in threads of the test's own process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret-9f2c", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """A server's address; the test is skipped if moto is not installed."""
    moto = pytest.importorskip("moto.server", reason="needs the package moto, of the extra [test]")
    pytest.importorskip("obstore", reason="needs the package obstore, of the extra [s3]")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def fill_bucket(endpoint: str, bucket: str, objects: Mapping[str, bytes]) -> None:
    """Make a bucket and put objects into it."""
    import urllib3

    web = urllib3.PoolManager()
    for path, body in {"": b"", **objects}.items():
        assert web.request("PUT", f"{endpoint}/{bucket}/{path}".rstrip("/"), body=body).status == 200


def remove_object(endpoint: str, bucket: str, key: str) -> None:
    """Delete an object."""
    import urllib3

    assert urllib3.PoolManager().request("DELETE", f"{endpoint}/{bucket}/{key}").status == 204

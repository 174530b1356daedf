"""An S3 server on loopback: moto's, in threads of the test's own process."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3

KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret-9f2c", "AWS_REGION": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[str]:
    """A server's address; the test is skipped if moto is not installed.

    Connections to a bucket are kept for the process, so no two servers may have one of the same name.
    """
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
    """Make a bucket, unless it is there, and put objects into it."""
    import obstore

    assert urllib3.PoolManager().request("PUT", f"{endpoint}/{bucket}").status == 200
    for key, body in objects.items():
        obstore.put(_store(endpoint, bucket), key, body)


def remove_objects(endpoint: str, bucket: str, keys: Iterable[str]) -> None:
    """Delete objects."""
    import obstore

    obstore.delete(_store(endpoint, bucket), list(keys))


def mirror(endpoint: str, bucket: str, objects: Mapping[str, bytes]) -> None:
    """Make a bucket hold these objects and no others; those that it has already stay untouched."""
    import obstore

    fill_bucket(endpoint, bucket, {})
    pages = obstore.list(_store(endpoint, bucket))
    there = {each["path"]: (each["e_tag"] or "").strip('"') for page in pages for each in page}
    fresh = {key: body for key, body in objects.items() if hashlib.md5(body).hexdigest() != there.get(key)}
    fill_bucket(endpoint, bucket, fresh)
    if gone := there.keys() - objects.keys():
        remove_objects(endpoint, bucket, gone)


def _store(endpoint: str, bucket: str) -> Any:
    from obstore.store import S3Store

    key, secret, region = KEYS.values()
    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=key,
        secret_access_key=secret,
        region=region,
        client_options={"allow_http": True},
    )

"""Objects of S3, Google Cloud Storage and Azure, and of servers that speak as these do, by obstore."""

import configparser
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from llm2clip_search.corpora.file_status import FileStatus
from llm2clip_search.corpora.range_file import buffered
from llm2clip_search.errors import CorpusError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""The extra that brings obstore, by the scheme of an address."""
_PAGE = 1000
_OWN_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
"""Variables by which obstore finds credentials itself."""
_PROFILE = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "region": "region",
    "endpoint_url": "endpoint",
}
_FAULTS = (
    (("NoSuchBucket", "BucketNotFound", "ContainerNotFound", "bucket does not exist"), "there is no such bucket"),
    (
        ("without LOCATION", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint"),
        "the bucket is in another region than the one that is set (AWS_REGION)",
    ),
    (
        ("169.254.169.254", "metadata.google.internal", "instance metadata", "redentials"),
        "no credentials were found for it",
    ),
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401 Unauthorized"),
        "the server does not accept the credentials",
    ),
    (("AccessDenied", "403 Forbidden", "AllAccessDisabled"), "the server denies access to it"),
    (("dns error", "error sending request", "tcp connect", "timed out"), "the server cannot be reached"),
)
"""What a message of obstore holds, and the sentence for it."""


class ObjectStoreFiles:
    """The objects of one bucket. Connections are shared by all threads."""

    is_remote = True

    def __init__(self, bucket: str) -> None:
        """A bucket by its address without a key: ``s3://photos``.

        Raises:
            CorpusError: obstore is not installed, or cannot use what the environment says about credentials.
        """
        self._bucket = bucket
        scheme = bucket.partition("://")[0]
        try:
            import obstore
            from obstore import store
        except ImportError as error:
            raise CorpusError(
                f"Reading {bucket} needs the package obstore.",
                hint=f"Install it with: pip install 'llm2clip-search[{EXTRAS[scheme]}]'.",
            ) from error
        self._obstore, from_url = obstore, cast("Any", store).from_url
        config = _profile() if EXTRAS[scheme] == "s3" else {}
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
        endpoint = config.get("endpoint") or next((os.environ[name] for name in variables if name in os.environ), "")
        options: dict[str, Any] = {"connect_timeout": "10s", "timeout": "300s"}
        if endpoint.startswith("http://"):
            options["allow_http"] = True
        retry: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
        try:
            self._store: Any = from_url(bucket, client_options=options, retry_config=retry, **config)
        except Exception as error:  # its own types, and ValueError
            raise CorpusError(f"{bucket} cannot be opened: {_reason(error)}.") from error

    def status(self, uri: str) -> FileStatus:
        with self._faults():
            return self._status(self._obstore.head(self._store, self._key(uri)))

    def walk(self, uri: str) -> Iterator[FileStatus]:
        with self._faults():
            prefix = self._key(uri).strip("/")
            for page in self._obstore.list(self._store, prefix=prefix or None, chunk_size=_PAGE):
                yield from map(self._status, page)

    def read(self, uri: str) -> bytes:
        with self._faults():
            return bytes(self._obstore.get(self._store, self._key(uri)).bytes())

    def read_range(self, uri: str, offset: int, size: int) -> bytes:
        if not size:
            return b""
        with self._faults():
            return bytes(self._obstore.get_range(self._store, self._key(uri), start=offset, length=size))

    def write(self, uri: str, data: bytes) -> None:
        """Store an object as a whole, in place of what was there.

        Raises:
            OSError: it cannot be written.
        """
        with self._faults():
            self._obstore.put(self._store, self._key(uri), data)

    def remove(self, uri: str) -> None:
        """Delete an object, if it is there.

        Raises:
            OSError: it cannot be deleted.
        """
        with self._faults():
            self._obstore.delete(self._store, self._key(uri))

    def open(self, uri: str) -> BinaryIO:
        return buffered(lambda offset, size: self.read_range(uri, offset, size), self.status(uri).size)

    def _key(self, uri: str) -> str:
        return uri.removeprefix(self._bucket).removeprefix("/")

    def _status(self, found: Any) -> FileStatus:
        modified = found["last_modified"]
        changed = int(modified.timestamp() * 1_000_000) * 1000 if modified else 0
        return FileStatus(
            uri=f"{self._bucket}/{found['path']}",
            size=found["size"],
            version=(found.get("e_tag") or "").strip('"') or f"{changed}:{found['size']}",
            mtime_ns=changed,
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn obstore's errors, whose messages have many lines and hold addresses, into sentences.

        Raises:
            OSError: instead of any of them.
        """
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "obstore" and not isinstance(error, OSError):
                raise
            reason = _reason(error)
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) or "no such" in reason else OSError
            raise kind(reason) from error


def _reason(error: Exception) -> str:
    message = str(error)
    for marks, reason in _FAULTS:
        if any(mark in message for mark in marks):
            return reason
    if isinstance(error, FileNotFoundError):
        return "there is no such object"
    if "empty path segment" in message:
        return "a name in it has two slashes in a row, which obstore does not list"
    return f"the object store fails ({type(error).__name__})"


def _profile() -> dict[str, str]:
    """Keys, region and endpoint of the files of the AWS command line, where the environment says nothing of keys."""
    if any(name in os.environ for name in _OWN_CREDENTIALS):
        return {}
    name = os.environ.get("AWS_PROFILE", "default")
    files = {
        os.environ.get("AWS_CONFIG_FILE", "~/.aws/config"): f"profile {name}" if name != "default" else name,
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"): name,
    }
    found: dict[str, str] = {}
    for file, section in files.items():
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(file).expanduser(), encoding="utf-8")
        except (OSError, ValueError, configparser.Error):
            continue
        if parser.has_section(section):
            found |= {_PROFILE[key]: value for key, value in parser.items(section) if key in _PROFILE}
    if "AWS_REGION" in os.environ or "AWS_DEFAULT_REGION" in os.environ:
        found.pop("region", None)
    return found

"""Addresses are stored and shown without their secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2clip_search.corpora.addresses import public_uri, whole_uri, withhold

SECRET = "s3cr3t"
SIGNED = (
    f"https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Credential={SECRET}%2F2026&X-Amz-Signature={SECRET}",
    f"https://storage.googleapis.com/b/a.jpg?X-Goog-Credential={SECRET}&X-Goog-Signature={SECRET}",
    f"https://b.s3.amazonaws.com/a.jpg?AWSAccessKeyId={SECRET}&Expires=17&Signature={SECRET}%3D",
    f"https://acc.blob.core.windows.net/c/a.jpg?sv=2024&sp=r&se=2026-01-01&sig={SECRET}",
    f"https://d1.cloudfront.net/a.jpg?Expires=1&Policy={SECRET}&Key-Pair-Id={SECRET}&Signature={SECRET}",
    f"https://host/a.jpg?%58-Amz-Signature={SECRET}",
    f"https://host/a.jpg?access_token={SECRET}",
    f"https://me:{SECRET}@host/a.jpg",
    f"https://{SECRET}@host/a.jpg",
)


@pytest.mark.parametrize("uri", SIGNED)
def test_secrets_are_left_out_and_held_for_reading(uri: str) -> None:
    public = withhold(uri)
    assert SECRET not in public
    assert public.startswith("https://")
    assert public.endswith("/a.jpg")
    assert whole_uri(public) == uri
    assert public_uri(public) == public


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://host/a.jpg?id=7&token=x&size=2#top", "https://host/a.jpg?id=7&size=2#top"),
        ("https://host/a.jpg?expires=17&sp=r", "https://host/a.jpg?expires=17&sp=r"),
        ("ftp://me:pw@host/a.jpg", "ftp://me@host/a.jpg"),
        ("sftp://me@host/a.jpg", "sftp://me@host/a.jpg"),
        ("abfs://container@account.dfs.core.windows.net/a.jpg", "abfs://container@account.dfs.core.windows.net/a.jpg"),
        ("hf://datasets/me/photos@main/a.jpg", "hf://datasets/me/photos@main/a.jpg"),
        ("s3://bucket/who?.jpg", "s3://bucket/who?.jpg"),
        ("s3://bucket/x.tar#a?token=1.jpg", "s3://bucket/x.tar#a?token=1.jpg"),
        ("photos/me@home.jpg?token=1", "photos/me@home.jpg?token=1"),
        ("https://host/?&a=1&&b", "https://host/?&a=1&&b"),
    ],
)
def test_what_is_no_secret_stays(uri: str, public: str) -> None:
    assert public_uri(uri) == public


@given(st.text(alphabet="abé/?#@:&=%.- ", max_size=40))
def test_any_address_keeps_its_form(rest: str) -> None:
    public = public_uri(f"https://{rest}")
    assert public_uri(public) == public
    assert len(public) <= len(f"https://{rest}")


def test_the_addresses_that_are_held_are_bounded() -> None:
    first = withhold("https://host/first.jpg?sig=1")
    for number in range(1 << 16):
        withhold(f"https://host/{number}.jpg?sig=1")
    assert whole_uri(first) == first

"""Addresses without the secrets in them: what an index stores and a message shows."""

from collections import OrderedDict
from threading import Lock
from urllib.parse import unquote_plus

_SIGNATURES = frozenset({"x-amz-signature", "x-goog-signature", "signature", "sig", "hdnea", "hdnts"})
"""Parameters that sign a URL; the others of `_OF_SIGNATURES` are secret, or change each time, only beside one."""
_OF_SIGNATURES = frozenset(
    {
        *("awsaccesskeyid", "googleaccessid", "expires", "policy", "key-pair-id"),
        *("sv", "ss", "srt", "sr", "sp", "se", "st", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks", "skv"),
    }
)
_SECRETS = frozenset(
    {
        *("token", "access_token", "auth_token", "id_token", "auth", "authorization", "jwt", "sas"),
        *("password", "passwd", "secret", "client_secret", "api_key", "apikey"),
    }
)
_PREFIXES = ("x-amz-", "x-goog-")
_HELD = 1 << 16
"""Addresses whose secrets are held: an item is read soon after it was listed."""


class _Withheld:
    """Addresses that had secrets, by what is left of them, for as long as the process reads."""

    def __init__(self) -> None:
        self._whole: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def put(self, public: str, whole: str) -> None:
        with self._lock:
            self._whole[public] = whole
            self._whole.move_to_end(public)
            if len(self._whole) > _HELD:
                self._whole.popitem(last=False)

    def get(self, public: str) -> str:
        return self._whole.get(public, public)


_WITHHELD = _Withheld()


def public_uri(uri: str) -> str:
    """An address without passwords, signatures and tokens.

    >>> public_uri("https://me:pw@host/a.jpg?size=2&X-Amz-Signature=f00&X-Amz-Expires=9")
    'https://host/a.jpg?size=2'
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or ("@" not in rest and "?" not in rest):
        return uri
    end = next((place for place, letter in enumerate(rest) if letter in "/?#"), len(rest))
    user, at, host = rest[:end].rpartition("@")
    if scheme.lower() in ("http", "https"):
        user = at = ""
    path, mark, query = rest[end:].partition("?")
    query, hash_, fragment = query.partition("#")
    if "#" in path:  # a question mark in a fragment, or in the name of a part
        return f"{scheme}://{user.partition(':')[0]}{at}{host}{rest[end:]}"
    kept = _without_secrets(query)
    return f"{scheme}://{user.partition(':')[0]}{at}{host}{path}{mark if kept else ''}{kept}{hash_}{fragment}"


def withhold(uri: str) -> str:
    """`public_uri`, remembering the whole address, so that `whole_uri` finds it while this process lasts."""
    public = public_uri(uri)
    if public != uri:
        _WITHHELD.put(public, uri)
    return public


def whole_uri(uri: str) -> str:
    """An address with what `withhold` left out of it."""
    return _WITHHELD.get(uri)


def _without_secrets(query: str) -> str:
    pairs = query.split("&")
    names = [unquote_plus(pair.partition("=")[0]).lower() for pair in pairs]
    secret = _SECRETS | _SIGNATURES | (_OF_SIGNATURES if _SIGNATURES & {*names} else frozenset())
    kept = (pair for name, pair in zip(names, pairs, strict=True) if name not in secret)
    return "&".join(pair for pair in kept if not unquote_plus(pair).lower().startswith(_PREFIXES))

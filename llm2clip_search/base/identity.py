"""What identifies a model: hashes of everything that decides its embeddings."""

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """What an index stores about the model that made it."""

    name: str
    revision: str
    weights_sha256: str
    """Over the model folder's own tensors and the pins of all base weights."""
    preprocess_sha256: str
    """Over everything that runs before the towers: resize, crop, tokens, pooling, instruction."""

    @classmethod
    def from_name(cls, name: str) -> "ModelIdentity":
        """Identity of an encoder that is no model folder: its name stands for everything that decides its embeddings.

        Whoever changes the embeddings must change the name, for instance by a version number in it.
        """
        return cls(name=name, revision="", weights_sha256=json_sha256(name), preprocess_sha256=json_sha256(""))

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal for two models if and only if they give the same embeddings."""
        return json_sha256({"weights": self.weights_sha256, "preprocess": self.preprocess_sha256})[:16]

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def json_sha256(value: object) -> str:
    """Hex SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

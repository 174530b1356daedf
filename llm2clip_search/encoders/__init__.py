"""Encoders embed images and captions in one shared space. Of this package they import only `base` and `errors`."""

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.encoders.encoder import Encoder
from llm2clip_search.encoders.tower_encoder import TowerEncoder, as_encoder, load_encoder

__all__ = ["Encoder", "ModelIdentity", "TowerEncoder", "as_encoder", "load_encoder"]

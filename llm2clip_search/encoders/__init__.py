"""Encoders: images and captions into one space. The ground floor; it imports no other room."""

from llm2clip_search.encoders.encoder import Encoder, ModelIdentity, load_encoder

__all__ = ["Encoder", "ModelIdentity", "load_encoder"]

"""Serving engines: databases of vectors that an index is published to and searched in."""

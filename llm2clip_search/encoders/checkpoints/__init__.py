"""Published LLM2CLIP checkpoints: what there is, and their way into and out of this project's model folder."""

"""Published LLM2CLIP checkpoints: fetched, converted to model folders of this project, and written back."""

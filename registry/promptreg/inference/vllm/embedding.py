"""The base model's input embedding, under the name by which vLLM's users know it."""

from promptreg.models.embedding import load_embedded_skeleton, load_input_embedding

__all__ = ["load_embedded_skeleton", "load_input_embedding"]

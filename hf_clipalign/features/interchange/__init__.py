"""Embeddings behind the projector, and the formats in which others keep them."""

"""Contrastive fine-tuning of a dual encoder on image-text pairs."""

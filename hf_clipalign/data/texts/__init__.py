"""Texts: captions, judged pairs, concept dictionaries, prompt templates."""

"""RE-tune: findings learned one after the other from stored embeddings."""

"""What is derived from the embeddings of a collection to search it faster; it can always be made again."""

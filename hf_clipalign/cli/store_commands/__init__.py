"""What commands do with stores of features and embeddings beside making them."""

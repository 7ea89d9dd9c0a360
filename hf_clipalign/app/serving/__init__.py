"""What the server hands out and takes in: thumbnails, queried images, and which requests are answered at all."""

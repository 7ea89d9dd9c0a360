"""Labels: columns of class labels, and findings of multi-label tasks."""

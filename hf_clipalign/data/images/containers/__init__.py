"""Images that lie inside other files: tars and Parquet."""

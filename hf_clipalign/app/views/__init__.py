"""What the page shows: panels, and results as HTML."""

"""What is checked on input, and how errors show it."""

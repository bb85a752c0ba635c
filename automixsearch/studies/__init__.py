"""A question as a file: what it asks, which runs answer it, what they cost."""

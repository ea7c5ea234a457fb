"""A finished run, and what is shown of it."""

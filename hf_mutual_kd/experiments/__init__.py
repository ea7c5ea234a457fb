"""A recipe, from options to its closing table."""

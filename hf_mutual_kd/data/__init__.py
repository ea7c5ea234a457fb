"""Rows: from a data set to a batch."""

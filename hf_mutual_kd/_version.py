"""The version, apart from everything else so that packaging can read it without imports."""

__version__ = "0.1.0"

"""What differs between tasks, a folder each."""

"""What peers say of rows, computed once."""

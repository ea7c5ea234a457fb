"""To the Hub and back."""

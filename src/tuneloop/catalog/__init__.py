"""What they searched: items."""

"""The plugin contract, its discovery, and the built-in methods."""

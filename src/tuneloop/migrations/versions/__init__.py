"""The migrations, oldest first: one file for each step of the schema."""

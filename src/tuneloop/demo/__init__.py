"""A made-up shop: catalogue, shoppers, searches, clicks, purchases."""

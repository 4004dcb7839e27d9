"""The registry: register, load by name and version, alias; embed and rank."""

"""HTTP: routes, request and response schemas, auth. No logic."""

"""What users did: sessions, events, batches and their store."""

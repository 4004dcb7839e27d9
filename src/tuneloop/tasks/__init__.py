"""Asked-for work: task records, the durable queue, the worker."""

"""Starting, watching and stopping the parts of the service on one machine."""

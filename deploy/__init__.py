"""Starting and stopping the service on one machine."""

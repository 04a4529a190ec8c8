"""What two processes must agree on, and the client that speaks it."""

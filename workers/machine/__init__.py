"""What the machine, or the control group, leaves this worker: cores and memory."""

"""What the board and the processes on it do."""

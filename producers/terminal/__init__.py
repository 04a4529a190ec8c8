"""What the commands share at a terminal: text as it comes, lines that are typed, tables."""

"""The command `turnpike`: a file for each group of commands, and what they share.

`main.py` runs, `tree.py` lists, `reading.py` understands what was typed, `parsers.py` makes argparse's parsers of the
structs that the commands declare, `command.py` says what a command is.
"""

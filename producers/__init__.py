"""Whoever asks: the commands of producers, the gateway, and what they are made of.

A command is a file of `commands/`, or the `command.py` of a room of its own; all else is a library for them.
"""

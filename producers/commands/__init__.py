"""The commands that are one file each: what `turnpike ask`, `chat`, `read`, `cancel`, `dead`, `top` and `demo` do."""

"""The tables of docs/telemetry.md."""

from __future__ import annotations

from pathlib import Path

from broker.points import MEASUREMENTS


def reference() -> str:
    """The tables, in Markdown."""
    lines: list[str] = []
    for measurement in MEASUREMENTS:
        tags = ", ".join(f"`{tag}`" for tag in measurement.tags)
        lines += [f"### {measurement.name}", "", f"{measurement.meaning}. Tags: {tags}.", ""]
        lines += ["| field | type | unit | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | {field.kind} | {field.unit} | {field.meaning} |"
            for name, field in measurement.fields.items()
        ]
        lines.append("")
    return "\n".join(lines)


def renew(path: Path) -> None:
    """Writes the tables behind the mark in a page."""
    head, mark, _ = path.read_text().partition("<!-- reference: python -m broker.points -->\n")
    path.write_text(head + mark + reference())

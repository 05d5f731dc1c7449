"""Files that are written where they changed alone, so that Sphinx reads only those again."""

from __future__ import annotations

from pathlib import Path


class Folder:
    """Hold the folder of what is generated, and what has been written into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: set[Path] = set()

    def write(self, name: str, text: str) -> None:
        """Write a file, where it says something else than before."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written.add(path)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)

    def picture(self, name: str) -> Path:
        """Return where a picture goes."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.written.add(path)
        return path

    def sweep(self, *below: str) -> None:
        """Remove what an earlier build wrote into these folders and this one did not."""
        for name in below:
            for path in (self.path / name).rglob("*"):
                if path.is_file() and path not in self.written:
                    path.unlink()


def titled(text: str, under: str = "=") -> str:
    """Set a heading of reStructuredText."""
    return f"{text}\n{under * len(text)}\n"


def indented(text: str, by: int = 3) -> str:
    """Move all lines of a text to the right, empty ones excepted."""
    pad = " " * by
    return "\n".join(pad + line if line.strip() else "" for line in text.splitlines())


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Set a table of reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [heads, *rows]:
        for k, cell in enumerate(row):
            lines.append(f"   {'*' if k == 0 else ' '} - {cell}")
    return "\n".join(lines) + "\n"

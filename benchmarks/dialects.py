"""How much code a scheduler costs: every line of its folder and its script template, comments and blank ones too."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).parents[1]
SHARED = ("login_node", "transport")


def run() -> None:
    print(f"{'dialect':<12}{'files':>6}{'lines':>8}  of which tables, parsers, options …")
    folders = sorted(p.parent.name for p in (REPO / "site_adapters").glob("*/management.py"))
    for name in [f for f in folders if f not in SHARED]:
        _row(name, [*(REPO / "site_adapters" / name).glob("*.py"),
                    REPO / "job_templates" / "dialects" / f"{name}.sh.j2"])  # fmt: skip
    for name in SHARED:
        _row(f"({name})", list((REPO / "site_adapters" / name).glob("*.py")))
    print("A new centre with one of these schedulers: one YAML file, 0 lines of code.")


def _row(name: str, files: list[Path]) -> None:
    counted = {file.name: len(file.read_text("utf-8").splitlines()) for file in sorted(files) if file.exists()}
    parts = " ".join(f"{file.removesuffix('.py')}:{lines}" for file, lines in counted.items())
    print(f"{name:<12}{len(counted):>6}{sum(counted.values()):>8}  {parts}")

"""Which adapter does what on which family of base, and the page that says so.

`refusal` is the one source: the contract tests run every cell and expect an error with these words
where it gives some; the table in `docs/adapters.md` is written from it. A new adapter folder gets
its line, and its tests, without being listed here.

    python -m bem.testing.support            # writes the table into docs/adapters.md
    python -m bem.testing.support --check    # exit 1 where it is not in step
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bem.errors import InvalidInputError
from bem.interfaces import AdapterConfig
from bem.registry import adapter_class, adapter_kinds

FAMILIES = ("llama", "qwen3", "mistral", "gpt2")
USES = (
    "forward",
    "cached decode",
    "beam search",
    "checkpointing",
    "bf16 autocast",
    "save and load",
    "mixed batch",
    "NF4",
)
"""What they mean stands in docs/adapters.md, what they are in tests/contracts/adapter_uses.py."""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
_BEGIN, _END = "<!-- table: python -m bem.testing.support -->", "<!-- end of table -->"


def variants() -> dict[str, AdapterConfig]:
    """By label, the first small config of every adapter; one for each way in which its context is
    read, where it has several."""
    found: dict[str, AdapterConfig] = {}
    for kind in adapter_kinds():
        ways: dict[str, AdapterConfig] = {}
        for config in adapter_class(kind).examples():
            way = getattr(config, "code", None) or getattr(config, "router", None) or ""
            ways.setdefault(str(way), config)
        for way, config in ways.items():
            found[f"{kind} ({way})" if len(ways) > 1 else kind] = config
    return found


def refusal(kind: str, family: str, use: str) -> str | None:
    """What the error says where adapter `kind` cannot do `use` on `family`; None: it can."""
    if use == "checkpointing" and adapter_class(kind).gradient_free:
        return "no parameter in the groups takes a gradient"
    return None


def table() -> str:
    """Markdown: a line an adapter, a column a use."""
    notes: list[str] = []
    lines = [f"| adapter | {' | '.join(USES)} |", f"|---|{'---|' * len(USES)}"]
    for label, config in variants().items():
        cells = [_cell(config.kind, use, notes) for use in USES]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    numbered = [f'{i}. refused: "{note}"' for i, note in enumerate(notes, start=1)]
    return "\n".join([*lines, "", *numbered]).rstrip() + "\n"


def _cell(kind: str, use: str, notes: list[str]) -> str:
    """Yes or no, with the families where it is no and the number of the note that says why."""
    refused: dict[str, list[str]] = {}
    for family in FAMILIES:
        reason = refusal(kind, family, use)
        if reason is not None:
            refused.setdefault(reason, []).append(family)
    if not refused:
        return "yes"
    parts = []
    for reason, families in refused.items():
        if reason not in notes:
            notes.append(reason)
        where = "" if len(families) == len(FAMILIES) else f" on {', '.join(families)}"
        parts.append(f"no{where} ({notes.index(reason) + 1})")
    return "; ".join(parts)


def with_table(page: str) -> str:
    """The page with the table as it is now between its marks."""
    before, _, rest = page.partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise InvalidInputError(f"{PAGE}: the marks '{_BEGIN}' and '{_END}' are not there.")
    return f"{before}{_BEGIN}\n\n{table()}\n{_END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description="The table of docs/adapters.md.")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    made = with_table(page)
    if args.check:
        return 0 if made == page else 1
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

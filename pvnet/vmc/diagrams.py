"""State diagrams for the documents, drawn from the very tables that the machines run on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


def state_diagram(
    table: Mapping[tuple[Enum, Enum], tuple[Enum, Enum]], *, hide: frozenset[Enum] = frozenset(), loops: bool = True
) -> str:
    """Return a Mermaid ``stateDiagram-v2`` of a flat table ``(state, trigger) -> (action, next)``.

    Rows whose action is in ``hide`` (the ones that only ignore or count) are left out, and with ``loops`` false also
    all that do not leave their state.  Rows with the same ends and action share one arrow; order follows the table.
    """
    arrows: dict[tuple[str, str, str], list[str]] = {}
    for (state, trigger), (action, after) in table.items():
        if action in hide or (state is after and not loops):
            continue
        key = (_name(state), _name(after), str(action.value))
        arrows.setdefault(key, []).append(_name(trigger))
    lines = ["stateDiagram-v2", f"    [*] --> {_name(_initial(table))}"]
    for (source, target, text), triggers in arrows.items():
        lines.append(f"    {source} --> {target}: {', '.join(triggers)} / {text}")
    return "\n".join(lines) + "\n"


def _initial(table: Mapping[tuple[Enum, Enum], tuple[Enum, Enum]]) -> Enum:
    """The state whose number is 0: every table starts there."""
    return next(state for state, _ in table if state.value == 0)


def _name(member: Enum) -> str:
    return member.name.lower()

"""A dataset as a picture: tables as boxes with their columns, keys as arrows, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tuneloop.relational.schema import Table, Task

ROW, HEAD, GAP_X, GAP_Y, MARGIN = 20, 30, 110, 28, 24
CHARACTER = 7.2  # the width of one, in the picture's font
MAX_ROWS = 24
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_COLOURS = {"table": "#2f5d8a", "edge": "#7a5a9e", "task": "#a85c1c"}


@dataclass(frozen=True)
class Row:
    """A column in a box: its name, what it holds, and whether it is a key."""

    name: str
    kind: str
    mark: str


@dataclass
class Box:
    """A table, and where it stands."""

    title: str
    colour: str
    rows: list[Row]
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Wide enough for every row and the title."""
        widest = max((len(row.name) + len(row.kind) + len(row.mark) + 5 for row in self.rows), default=0)
        return max(widest, len(self.title) + 3) * CHARACTER + 16

    @property
    def height(self) -> float:
        """The title and a line for each row."""
        return HEAD + ROW * len(self.rows) + 6

    def line(self, column: str) -> float:
        """The height at which a column stands; the title's where it is not shown."""
        at = next((number for number, row in enumerate(self.rows) if row.name == column), None)
        return self.y + (HEAD / 2 if at is None else HEAD + ROW * (at + 0.5))


def draw(name: str, tables: Sequence[Table], task: Task | None, types: Mapping[str, Mapping[str, str]]) -> str:
    """The SVG of a dataset.

    Args:
        name: the dataset's.
        tables: its tables.
        task: what is learnt from them.
        types: what the columns of each table hold, in their order; a table that is missing shows its keys alone.
    """
    boxes = {table.name: _box(table, types.get(table.name, {})) for table in tables}
    links = [
        (table.name, key.column, key.table, key.key)
        for table in tables
        for key in table.foreign_keys
        if key.table in boxes
    ]
    if task is not None:
        rows = [Row(task.entity.column, "", "→"), Row(task.label_column, task.task_type, "?")]
        if task.time_column is not None:
            rows.insert(1, Row(task.time_column, "", "t"))
        title = f"task {task.name}"
        boxes[title] = Box(title, _COLOURS["task"], rows)
        if task.entity.table in boxes:
            links.append((title, task.entity.column, task.entity.table, task.entity.key))
    width, height = _place(boxes, links)
    parts = [_arrow(boxes[start], column, boxes[end], key) for start, column, end, key in links]
    parts += [_draw_box(box) for box in boxes.values()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}" font-size="12">\n'
        f"<title>{escape(name)}</title>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(table: Table, types: Mapping[str, str]) -> Box:
    names = list(types) or [*table.keys, *([table.time_column] if table.time_column else [])]
    names = [name for name in names if name not in table.exclude]
    foreign = {key.column for key in table.foreign_keys}
    candidate = {key.column for key in table.candidate_keys}

    def mark(name: str) -> str:
        found = ("◆" if name in candidate else "") + ("→" if name in foreign else "")
        return found + ("t" if name == table.time_column else "")

    first = [name for name in names if mark(name)]
    rest = [name for name in names if not mark(name)]
    rows = [Row(name, types.get(name, ""), mark(name)) for name in (*first, *rest)]
    if len(rows) > MAX_ROWS:
        rows = [*rows[: MAX_ROWS - 1], Row(f"and {len(rows) - MAX_ROWS + 1} more", "", "")]
    return Box(table.name, _COLOURS["edge" if table.is_edge else "table"], rows)


def _place(boxes: Mapping[str, Box], links: Sequence[tuple[str, str, str, str]]) -> tuple[float, float]:
    """Put tables left of those they link to, and near them; the size of the picture."""
    layers = _layers(boxes, links)
    order = {name: float(number) for number, name in enumerate(boxes)}
    near: dict[str, set[str]] = {name: set() for name in boxes}
    for start, _, end, _ in links:
        near[start].add(end)
        near[end].add(start)
    columns = [[name for name in boxes if layers[name] == layer] for layer in range(max(layers.values()) + 1)]
    for _ in range(4):  # each by the mean place of what it is linked with (Sugiyama's barycentre rule)
        for column in columns:
            column.sort(
                key=lambda name: sum(order[n] for n in near[name]) / len(near[name]) if near[name] else order[name]
            )
            for number, name in enumerate(column):
                order[name] = (number + 0.5) / len(column)
    height = max(sum(boxes[name].height + GAP_Y for name in column) for column in columns) - GAP_Y
    x = float(MARGIN)
    for column in columns:
        used = sum(boxes[name].height + GAP_Y for name in column) - GAP_Y
        y = MARGIN + (height - used) / 2
        for name in column:
            boxes[name].x, boxes[name].y = x, y
            y += boxes[name].height + GAP_Y
        x += max((boxes[name].width for name in column), default=0) + GAP_X
    return x - GAP_X + MARGIN, height + 2 * MARGIN


def _layers(boxes: Mapping[str, Box], links: Sequence[tuple[str, str, str, str]]) -> dict[str, int]:
    """How far right each table stands: one further than all that link to it, cycles cut."""
    layers = dict.fromkeys(boxes, 0)
    for _ in boxes:
        changed = False
        for start, _, end, _ in links:
            if start != end and layers[end] < layers[start] + 1 < len(boxes):
                layers[end], changed = layers[start] + 1, True
        if not changed:
            break
    used = sorted(set(layers.values()))
    return {name: used.index(layer) for name, layer in layers.items()}


def _draw_box(box: Box) -> str:
    parts = [
        f'<g transform="translate({box.x:.1f},{box.y:.1f})">',
        f'<rect width="{box.width:.1f}" height="{box.height:.1f}" rx="6" fill="#fbfbfd" stroke="{box.colour}"/>',
        f'<path d="M0,{HEAD} V6 Q0,0 6,0 H{box.width - 6:.1f} Q{box.width:.1f},0 {box.width:.1f},6 V{HEAD} z" '
        f'fill="{box.colour}"/>',
        f'<text x="10" y="20" fill="#fff" font-weight="bold">{escape(box.title)}</text>',
    ]
    for number, row in enumerate(box.rows):
        y = HEAD + ROW * number + 15
        weight = ' font-weight="bold"' if row.mark else ""
        parts.append(f'<text x="10" y="{y}"{weight} fill="#223">{escape(row.name)}</text>')
        said = " ".join(filter(None, (row.kind, row.mark)))
        parts.append(f'<text x="{box.width - 10:.1f}" y="{y}" text-anchor="end" fill="#778">{escape(said)}</text>')
    return "\n".join([*parts, "</g>"])


def _arrow(start: Box, column: str, end: Box, key: str) -> str:
    """A curve from a foreign key to the key it links to."""
    y1, y2 = start.line(column), end.line(key)
    if start is end or end.x <= start.x:  # round the right side
        x1, x2 = start.x + start.width, end.x + end.width
        far = max(x1, x2) + GAP_X * 0.6
        path = f"M{x1:.1f},{y1:.1f} C{far:.1f},{y1:.1f} {far:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    else:
        x1, x2 = start.x + start.width, end.x
        middle = (x1 + x2) / 2
        path = f"M{x1:.1f},{y1:.1f} C{middle:.1f},{y1:.1f} {middle:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    return f'<path d="{path}" fill="none" stroke="#99a" stroke-width="1.3" marker-end="url(#tip)"/>'

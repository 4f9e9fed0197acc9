"""Draw every results table and plot of the READMEs out of the recorded runs: `make figures` (--check: look).

What stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->` (or plot:NAME) in any Markdown file is
replaced by what tables.py or plots.py declares under it, so that nobody types a score by hand.  A plot is a
png in benchmarks/figures/; a hash of its data lies beside it, so that --check needs no drawing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plots import PLOTS, Plot
from benchmarks.results import LEARNING, ROOT, SEED, Record, group_by, load_records, read_json
from benchmarks.tables import TABLES, Column, Table
from benchmarks.tables_foundations import FOUNDATIONS
from common.cli import run_main
from common.errors import UserError
from common.flags import parse

MARKER = re.compile(r"<!-- (table|plot):([\w.-]+) -->\n(.*?)<!-- /\1:\2 -->", re.S)
OPENING = re.compile(r"<!-- (?:table|plot):[\w.-]+ -->")
SKIPPED = {".venv", ".git", "runs", "attempts", "demo", "build", "node_modules", "_vizdoom"}
EMPTY = "*No run is recorded yet.*"


@dataclass(frozen=True, kw_only=True)
class FiguresArgs:
    """Redraw, or look."""

    check: bool = False
    """Change nothing; say which documents differ from the recorded runs, and exit with 2."""
    root: Path = ROOT
    """Repository whose Markdown files are drawn."""


def select(records: Sequence[Record], where: Mapping[str, Any]) -> list[Record]:
    """The runs that have all of these values."""

    def fits(record: Record) -> bool:
        return all(
            record.get(name) in (wanted if isinstance(wanted, tuple) else (wanted,))
            for name, wanted in where.items()
        )

    return [record for record in records if fits(record)]


def draw_table(table: Table, records: Sequence[Record], root: Path = ROOT) -> str:
    """Markdown of one table; the columns that no run fills are left out."""
    if table.file:
        files = sorted((root / "benchmarks").glob(table.file))
        records = [Record(file.parent, read_json(file), {}) for file in files]
    chosen = select(records, table.where)
    lines = list_rows(table, chosen) if table.rows else run_rows(table, chosen)
    if not lines:
        return EMPTY + "\n"
    filled = [i for i in range(len(table.columns)) if any(line[i] for line in lines)]
    titles = [table.columns[i].title for i in filled]
    right = ["---" if i == 0 or table.columns[i].code else "---:" for i in filled]
    body = [titles, right] + [[line[i] for i in filled] for line in lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in body)


def run_rows(table: Table, records: Sequence[Record]) -> list[list[str]]:
    """One line of cells per group of runs, below the baselines that the first run knows."""
    groups = group_by(records, table.by)
    order = {label: i for i, label in enumerate(table.order)}
    place = {key: order.get(runs[0].get("label"), len(order)) for key, runs in groups.items()}
    keys = sorted(groups, key=lambda key: (place[key], *map(_sortable, key)))
    lines = []
    for name in table.baselines if groups else ():
        value = groups[keys[0]][0].baseline(name)
        score = next(column for column in table.columns if column.value == "score.mean")
        if value is not None:
            cells = {table.columns[0]: f"*{name.split('.')[-1]}*", score: score.form.format(value)}
            lines.append([cells.get(column, "") for column in table.columns])
    for key in keys:
        lines.append([cell(column, groups[key]) for column in table.columns])
    return lines


def list_rows(table: Table, records: Sequence[Record]) -> list[list[str]]:
    """The rows that the runs hold in a list, those with the same first column averaged over the runs."""
    return [
        [cell(column, rows) for column in table.columns]
        for rows in rows_by_key(table.columns[0].value, table.rows, records).values()
    ]


def rows_by_key(key: str | Callable, name: str, records: Sequence[Record]) -> dict[Any, list[Record]]:
    """Rows inside eval.json as records of their own, grouped by their value of `key`."""
    merged: dict[Any, list[Record]] = {}
    for record in records:
        for row in record.rows(name):
            one = Record(record.folder, row, {})
            merged.setdefault(one.get(key) if callable(key) else row.get(key), []).append(one)
    return merged


def cell(column: Column, records: Sequence[Record]) -> str:
    """One cell: numbers averaged over the runs, texts joined, nothing where no run knows."""
    if column.value == "n":
        return str(len(records))
    values = [value for record in records if (value := record.get(column.value)) is not None]
    if not values:
        return ""
    if any(isinstance(value, str) for value in values):
        texts = list(dict.fromkeys(map(str, values)))
        if column.code and len(texts) > 1:
            texts = list(dict.fromkeys(SEED.sub(r"\1S", text) for text in texts))
        return "; ".join(f"`{text}`" if column.code else text for text in texts)
    numbers = column.scale * np.asarray(values, np.float64)
    if column.seeds:
        texts = [column.form.format(f(numbers)) for f in (np.median, np.min, np.max)]
        return "{} ({} to {})".format(*texts) if numbers.size > 1 else texts[0]
    text = column.form.format(numbers.mean())
    if not column.spread:
        return text
    if len(numbers) > 1:
        return f"{text} ± {column.form.format(numbers.std(ddof=1))}"
    interval = records[0].get(column.value.replace(".mean", ".ci95"))
    if isinstance(interval, list) and column.value.endswith(".mean"):
        low, high = (column.form.format(column.scale * edge) for edge in interval)
        return f"{text} ({low} to {high})"
    return text


def _sortable(value: Any) -> tuple:
    return (isinstance(value, str), value) if value is not None else (True, "")


def plot_data(plot: Plot, records: Sequence[Record]) -> dict[str, list]:
    """{label: [[xs, ys], ...]}: one pair per run, or per y column where the points come out of lists."""
    chosen = select(records, plot.where)
    curves: dict[str, list] = {}
    if plot.rows or not plot.y[0].value.startswith("ret_"):
        if plot.rows:
            points = rows_by_key(plot.x.value, plot.rows, chosen)
        else:
            points = {key[0]: runs for key, runs in group_by(chosen, (plot.x.value,)).items()}
        for y in plot.y:
            pairs = [(x, [r.get(y.value) for r in rows]) for x, rows in sorted(points.items())]
            known = [(x, [v for v in values if v is not None]) for x, values in pairs]
            known = [(x, values) for x, values in known if values]
            if known:
                curves[y.title] = [[[x for x, _ in known], [float(np.mean(v)) for _, v in known]]]
        return curves
    groups = {key[0]: runs for key, runs in group_by(chosen, (plot.by,)).items()}
    for label, runs in groups.items():
        for record in runs:
            curve = record.curve()
            pair = [curve[plot.x.value].tolist(), curve[plot.y[0].value].tolist()]
            curves.setdefault(label, []).append(pair)
    return curves


def draw_plot(
    name: str, plot: Plot, records: Sequence[Record], document: Path, root: Path, check: bool
) -> str:
    """The link that stands in the document; the png is drawn if its data changed or it is not there."""
    curves = plot_data(plot, records)
    if not curves:
        return EMPTY + "\n"
    chosen = select(records, plot.where)
    levels = {b: v for b in plot.baselines if (v := chosen[0].baseline(b)) is not None}
    data = json.dumps([plot.title, plot.x.title, [y.title for y in plot.y], curves, levels])
    digest = hashlib.sha256(data.encode()).hexdigest()[:12]
    picture = root / "benchmarks" / "figures" / f"{name}.png"
    stamp = picture.with_suffix(".sha")
    if not check and not (picture.exists() and stamp.exists() and stamp.read_text().strip() == digest):
        from common.plots import plot_comparison

        y_label = plot.y[0].title if len(plot.y) == 1 else "return"
        titles = {"x_label": plot.x.title, "y_label": y_label, "title": plot.title}
        plot_comparison(curves, levels=levels, path=picture, **titles)
        stamp.write_text(digest + "\n")
    there = picture.exists() and stamp.exists() and stamp.read_text().strip() == digest
    link = Path(os.path.relpath(picture, document.parent)).as_posix()
    return f"![{plot.title}]({link})\n" if there else f"(the picture {link} is not what the files say)\n"


def draw(text: str, document: Path, records: Sequence[Record], root: Path = ROOT, check: bool = False) -> str:
    """A document with all of its marked blocks drawn anew."""

    def block(match: re.Match) -> str:
        kind, name, _ = match.groups()
        known = TABLES | FOUNDATIONS if kind == "table" else PLOTS
        if name not in known:
            names = ", ".join(known)
            raise UserError(f"{document}: no {kind} {name!r} in benchmarks/{kind}s.py; there are {names}")
        if kind == "table":
            body = draw_table(known[name], records, root)
        else:
            body = draw_plot(name, PLOTS[name], records, document, root, check)
        return f"<!-- {kind}:{name} -->\n{body}<!-- /{kind}:{name} -->"

    found, opened = len(MARKER.findall(text)), len(OPENING.findall(text))
    if found != opened:
        raise UserError(
            f"{document}: {opened} blocks are opened but {found} closed: see benchmarks/figures.py"
        )
    return MARKER.sub(block, text)


def documents(root: Path) -> list[Path]:
    """All Markdown files of the repository."""
    found = (path for path in root.rglob("*.md") if not SKIPPED & set(path.relative_to(root).parts))
    return sorted(found)


def stale(root: Path = ROOT, check: bool = True) -> list[Path]:
    """The documents whose blocks differ from the recorded runs; with check=False they are written anew."""
    records = load_records(root / LEARNING.relative_to(ROOT))
    changed = []
    for path in documents(root):
        text = path.read_text(encoding="utf-8")
        drawn = draw(text, path, records, root, check)
        if drawn != text:
            changed.append(path)
            if not check:
                path.write_text(drawn, encoding="utf-8")
    return changed


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, or with --check only look."""
    args = parse(FiguresArgs, list(sys.argv[1:] if argv is None else argv), __doc__.split("\n\n")[0])
    changed = [path.relative_to(args.root).as_posix() for path in stale(args.root, args.check)]
    if args.check and changed:
        raise UserError(f"{', '.join(changed)}: not what the recorded runs say; run make figures and commit")
    for path in changed:
        print(f"drawn anew: {path}")
    if not changed:
        print("all tables and plots are what the recorded runs say")


if __name__ == "__main__":
    run_main(main)

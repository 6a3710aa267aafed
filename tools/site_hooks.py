"""Hooks of mkdocs: reference pages generated from the package, pages from the root, links out of docs/.

A page of docs/ that contains `<!-- generated: NAME -->` gets the text of GENERATORS[NAME] in that place. The
page itself is in the repository, so that links to it work on GitHub, too.
"""

from __future__ import annotations

import html
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^(\s*```+\w+) run$", re.MULTILINE)
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PAGES_OF_ROOT = {**FROM_ROOT, "README.md": "index.md"}
EXAMPLES = "examples"


# ---- events of mkdocs


def on_config(config: Any) -> Any:
    """Add the pages of docs/examples to the sections of the navigation."""
    pages = Path(config.docs_dir, EXAMPLES).rglob("*.md")
    examples = sorted(path.relative_to(config.docs_dir).as_posix() for path in pages)
    own = [page for page in examples if "environment" in page]
    others = [page for page in examples if page not in own]
    for title, added in (
        ("Train your own environment", own),
        ("Extend", [{"Examples": others}] if others else []),
    ):
        section = next(entry[title] for entry in config.nav if title in entry)
        section[1:1] = added
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie in the root of the repository."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in generated parts and make links and fences of GitHub's Markdown fit the site."""
    source = page.file.src_uri
    folder = "" if source in FROM_ROOT.values() else posixpath.join("docs", posixpath.dirname(source))
    markdown = LINK.sub(lambda match: _site_link(match, folder, source), markdown)
    markdown = MARKER.sub(lambda match: GENERATORS[match[1]](), markdown)
    return separate_lists(FENCE.sub(r"\1", markdown))


def separate_lists(markdown: str) -> str:
    """Put an empty line before lists that follow a paragraph: Python-Markdown needs it, GitHub does not."""
    lines: list[str] = []
    in_fence = in_list = in_paragraph = False
    for line in markdown.split("\n"):
        in_fence ^= line.lstrip().startswith("```")
        is_item = re.match(r"(?:[-*]|\d+\.) ", line) is not None
        if is_item and in_paragraph and not in_fence:
            lines.append("")
        lines.append(line)
        in_list = is_item or (in_list and bool(line.strip()))
        in_paragraph = bool(line.strip()) and not in_list and not in_fence
    return "\n".join(lines)


def _site_link(match: re.Match[str], folder: str, source: str) -> str:
    """Return a link with its target in the site; only its text where the site has no such page.

    Args:
        match: Link in Markdown.
        folder: Folder of the page in the repository.
        source: Path of the page below docs/.
    """
    target, _, anchor = match["target"].partition("#")
    if not target or "://" in target or target.startswith("mailto:"):
        return match[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in PAGES_OF_ROOT:
        path, anchor = f"docs/{PAGES_OF_ROOT[path]}", "" if path == "README.md" else anchor
    if not path.startswith("docs/"):
        return match["text"]
    relative = posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(source) or ".")
    return f"[{match['text']}]({relative}{'#' * bool(anchor)}{anchor})"


# ---- Markdown


def plain(text: str) -> str:
    """Return text as Markdown that shows it as it is, except that `code` stays code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts = ["`".join(parts)]
    escaped = [
        f"`{part}`" if index % 2 else re.sub(r"([\\*_\[\]#`])", r"\\\1", html.escape(part, quote=False))
        for index, part in enumerate(parts)
    ]
    return "".join(escaped).replace("|", "&#124;").replace("\n", " ")


def code(text: str) -> str:
    """Return text as code in a cell of a table."""
    return f"<code>{html.escape(text, quote=False)}</code>".replace("|", "&#124;") if text else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns that are empty in all rows are left out."""
    cells = list(rows)
    kept = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    # the style sheet sets widths by the class of a heading
    headings = [f"{columns[index]} {{ .{columns[index].split()[0].lower()} }}" for index in kept]
    lines = [headings, ["---"] * len(kept)]
    lines += [[row[index] for index in kept] for row in cells]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f'<div class="reference" markdown>\n\n{body}\n\n</div>'


def target(name: str, anchor: str) -> str:
    """Return code that is an anchor and a link to itself."""
    return f'<a class="key" id="{anchor}" href="#{anchor}"><code>{html.escape(name, quote=False)}</code></a>'


def anchor_of(key: str) -> str:
    """Return the anchor of a configuration key: the key without the marks of placeholders."""
    return key.replace("<", "").replace(">", "")


# ---- reference/configuration.md


def configuration() -> str:
    """Return the tables of all keys of runs, one for each section of the file."""
    from hpcmarl.config.keys import schema_rows

    return _sections(schema_rows(), level=2)


def simulation() -> str:
    """Return the tables of the keys that only simulations have."""
    from hpcmarl.config.keys import schema_rows
    from hpcmarl.config.simulation import SimulationConfig

    shared = {row.key for row in schema_rows()}
    rows = [row for row in schema_rows(SimulationConfig) if key_of_run(row.key) not in shared]
    return _sections(rows, level=3)


def key_of_run(key: str) -> str:
    """Return the key of a run that means the same as a key of a simulation: env.id for objective.env.id."""
    inner = key.removeprefix("objective.")
    return inner if "." in inner else key


def _sections(rows: Sequence[Any], level: int) -> str:
    """Return a heading and a table for each section of the configuration.

    Args:
        rows: Rows of the schema.
        level: Level of the headings of top-level sections; nested sections are one level below.
    """
    tops = {row.key.partition(".")[0] for row in rows if "." in row.key}
    sections: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for row in rows:
        top = row.key.partition(".")[0]
        section = row.key.rpartition(".")[0] or (top if top in tops else "")
        keys = sections.setdefault(top if top in tops else "", {}).setdefault(section, {})
        keys.setdefault(row.key, []).append(row)
    parts = []
    for top, inner in sections.items():
        if top not in inner:
            parts.append(f"{'#' * level} `{top}`\n")
        for name, keys in inner.items():
            heading = f"`{name}`" if name else "The run"
            parts.append(f"{'#' * (level + (name != top))} {heading}\n\n{_keys(keys)}\n")
    return "\n".join(parts)


def _keys(keys: Mapping[str, Sequence[Any]]) -> str:
    """Return the table of one section: key -> its rows, several where algorithms differ."""
    rows = []
    for key, variants in keys.items():
        for index, row in enumerate(variants):
            name = target(key, anchor_of(key)) if index == 0 else code(key)
            only = ", ".join(code(member) for member in row.only)
            allowed = re.sub(r"(&[lg]t;=?) ", r"\1&nbsp;", plain(row.allowed))
            rows.append((name, allowed, code(row.default), plain(row.description), only))
    return table(("Key", "Allowed", "Default", "Meaning", "Only for"), rows)


# ---- reference/commands.md


def commands() -> str:
    """Return every command with its help, arguments and options."""
    import typer

    from hpcmarl.cli.data import data_app
    from hpcmarl.cli.league import league_app
    from hpcmarl.cli.main import app

    # `hpcmarl data` and `hpcmarl league` load their subcommands when they run
    lazy = {"data": data_app, "league": league_app}
    root = typer.main.get_command(app)
    parts = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        loaded = typer.main.get_command(lazy[name]) if name in lazy else command
        parts.extend(_command(f"hpcmarl {name}", loaded, level=2))
    return "\n\n".join(parts)


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    """Yield the blocks of a command and of its subcommands."""
    yield f"{'#' * level} `{name}`"
    context = command.context_class(command, info_name=name)
    inner = getattr(command, "commands", None)
    if not inner:
        yield f"```\n{' '.join([name, *command.collect_usage_pieces(context)])}\n```"
    yield from _help(command.help or "")
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        is_argument = parameter.param_type_name == "argument"
        shown = parameter.metavar or parameter.name.upper() if is_argument else record[0]
        rows.append((code(shown), plain(record[1])))
    if rows:
        yield table(("Argument or option", "Meaning"), rows)
    for inner_name, subcommand in (inner or {}).items():
        yield from _command(f"{name} {inner_name}", subcommand, level + 1)


def _help(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text; blocks that begin with a backspace are examples."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield f"```bash\n{paragraph.removeprefix(chr(8)).strip()}\n```"
        elif paragraph.strip():
            yield plain(" ".join(paragraph.split()))


# ---- reference/metrics.md


def metric_kinds() -> str:
    """Return what the kinds of metrics mean."""
    from hpcmarl.io.metric_reference import KINDS

    return table(("Kind", "Meaning"), [(kind, plain(meaning)) for kind, meaning in KINDS.items()])


def run_metrics() -> str:
    """Return the columns that neither learners nor actors report."""
    from hpcmarl.io.metric_reference import COLUMNS

    reported = ("learner/", "actors/")
    return _metrics({name: metric for name, metric in COLUMNS.items() if not name.startswith(reported)})


def learner_metrics() -> str:
    """Return the columns of learners."""
    from hpcmarl.io.metric_reference import COLUMNS

    return _metrics({name: metric for name, metric in COLUMNS.items() if name.startswith("learner/")})


def actor_metrics() -> str:
    """Return the columns of actors."""
    from hpcmarl.io.metric_reference import COLUMNS

    return _metrics({name: metric for name, metric in COLUMNS.items() if name.startswith("actors/")})


def group_metrics() -> str:
    """Return the figures of single groups."""
    from hpcmarl.io.metric_reference import GROUP_FIGURES

    return _metrics(GROUP_FIGURES, "groups/")


def league_metrics() -> str:
    """Return the columns of leagues."""
    from hpcmarl.io.metric_reference import LEAGUE_COLUMNS

    return _metrics(LEAGUE_COLUMNS, "league/")


def summary_keys() -> str:
    """Return the keys of summary.json."""
    from hpcmarl.io.metric_reference import SUMMARY

    return _entries(SUMMARY, "summary/")


def evaluation_keys() -> str:
    """Return the keys of `evaluation` in summary.json."""
    from hpcmarl.io.metric_reference import EVALUATION

    return _entries(EVALUATION, "evaluation/")


def league_summary_keys() -> str:
    """Return the keys of a league's summary.json."""
    from hpcmarl.io.metric_reference import LEAGUE_SUMMARY

    return _entries(LEAGUE_SUMMARY, "league-summary/")


def _metrics(metrics: Mapping[str, Any], prefix: str = "") -> str:
    """Return a table of metrics, whose anchors begin with `prefix`."""
    rows = [
        (target(name, prefix + name), metric.unit, metric.kind, plain(metric.meaning), _writers(metric))
        for name, metric in metrics.items()
    ]
    return table(("Name", "Unit", "Kind", "Meaning", "Written by"), rows)


def _writers(metric: Any) -> str:
    """Return the algorithms and the condition of a metric in words."""
    from hpcmarl.io.metric_reference import GROUPS_OF_ALGORITHMS

    words = next((words for words, names in GROUPS_OF_ALGORITHMS.items() if names == metric.algorithms), None)
    named = words or ", ".join(code(name) for name in metric.algorithms)
    return "; ".join(part for part in (named, plain(metric.condition)) if part)


def _entries(entries: Mapping[str, Any], prefix: str) -> str:
    """Return a table of keys, whose anchors begin with `prefix`."""
    rows = [
        (target(name, prefix + name), entry.unit, plain(entry.meaning), plain(entry.condition))
        for name, entry in entries.items()
    ]
    return table(("Key", "Unit", "Meaning", "Absent or null without"), rows)


GENERATORS = {
    "configuration": configuration,
    "simulation": simulation,
    "commands": commands,
    "metric-kinds": metric_kinds,
    "run-metrics": run_metrics,
    "learner-metrics": learner_metrics,
    "actor-metrics": actor_metrics,
    "group-metrics": group_metrics,
    "league-metrics": league_metrics,
    "summary-keys": summary_keys,
    "evaluation-keys": evaluation_keys,
    "league-summary-keys": league_summary_keys,
}

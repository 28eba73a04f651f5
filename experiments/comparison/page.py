"""The page: one HTML file, complete in itself."""

import base64
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from experiments.comparison.joining import align, are_joined, cautions_of, differing_settings, merged_lists, titles_of
from experiments.comparison.reading import MISSING, Run, facts_of, name_of, settings_of
from experiments.comparison.tables import notes_html, plain_table_html, remark_html, table_html

_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}


def page_html(runs: Sequence[Run]) -> str:
    """The page that compares `runs`."""
    experiments = merged_lists([str(run.metrics.get("experiment") or "unnamed experiment")] for run in runs)
    title = f"{', '.join(experiments)}: {_count(len(runs), 'run')}"
    tables, previous = [], ("", "")
    for index, name in enumerate(titles_of(runs)):
        aligned = align(name, runs)
        # the same note or remark is said once for tables in a row
        said = notes_html(aligned), remark_html(aligned, runs)
        note, remark = ("" if new == old else new for new, old in zip(said, previous, strict=True))
        tables.append(
            f'<section id="table-{index + 1}">\n<h2>{escape(name)}</h2>\n{note}{table_html(aligned, runs)}\n'
            f"{remark}</section>\n"
        )
        previous = said
    figures = _figures(runs)
    links = [("runs", "Runs"), ("settings", "Settings")]
    links += [(f"table-{index + 1}", name) for index, name in enumerate(titles_of(runs))]
    links += [("figures", "Figures")] if figures else []
    navigation = "\n".join(f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links)
    cautions = "".join(f'<p class="caution">Beware: {escape(caution)}</p>\n' for caution in cautions_of(runs))
    command = shlex.join(["python", "-m", "experiments", "report", *(str(run.folder) for run in runs)])
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(_verdict(runs))}</p>
{cautions}</header>
<nav aria-label="Contents">
<ul>
{navigation}
</ul>
</nav>
<main>
<section id="runs">
<h2>Runs</h2>
{_runs_table(runs)}
</section>
<section id="settings">
<h2>Settings</h2>
{_settings_tables(runs)}
</section>
{"".join(tables)}{figures}</main>
<footer>
<p>Made by <code>{escape(command)}</code></p>
</footer>
</body>
</html>
"""


def _verdict(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return "One run, with its tables and figures as they are."
    if are_joined(runs):
        what = "differ in the seed alone" if differing_settings(runs) else "have the same settings"
        return f"The runs {what}, so their numbers are joined: mean ± standard deviation over the runs."
    return "The runs differ in their settings, so their numbers stand side by side, grey where all runs agree."


def _runs_table(runs: Sequence[Run]) -> str:
    facts = [facts_of(run) for run in runs]
    rows = [(name, [one[name] for one in facts]) for name in facts[0]]
    return plain_table_html("Runs", ["", *(run.label for run in runs)], rows)


def _settings_tables(runs: Sequence[Run]) -> str:
    settings = [settings_of(run) for run in runs]
    differing = differing_settings(runs)
    shared = [(name, [value]) for name, value in settings[0].items() if name not in differing]
    parts = []
    if differing:
        rows = [(name, [one.get(name, MISSING) for one in settings]) for name in differing]
        parts.append(plain_table_html("Settings in which the runs differ", ["", *(run.label for run in runs)], rows))
    elif len(runs) > 1:
        parts.append("<p>The same in all runs.</p>")
    if shared:
        what = "setting" if len(runs) == 1 else "shared setting"
        parts.append(
            f"<details>\n<summary>{_count(len(shared), what)}</summary>\n"
            f"{plain_table_html('Settings', ['', 'value'], shared)}\n</details>"
        )
    return "\n".join(parts)


def _figures(runs: Sequence[Run]) -> str:
    """Figures of one path next to each other; those without a file are left out."""
    captions: dict[str, str] = {}
    for run in runs:
        for figure in run.figures:
            captions.setdefault(figure.path, figure.caption)
    parts = []
    for path in merged_lists(list(dict.fromkeys(figure.path for figure in run.figures)) for run in runs):
        images = [(run, _data_uri(run.folder, path)) for run in runs if path in {f.path for f in run.figures}]
        shown = "".join(
            f'<figure>\n<img src="{uri}" alt="{escape(f"{captions[path]} Run {run.label}.")}">\n'
            f"<figcaption>{escape(name_of(run))}</figcaption>\n</figure>\n"
            for run, uri in images
            if uri is not None
        )
        if shown:
            parts.append(f'<h3>{escape(captions[path])}</h3>\n<div class="figures">\n{shown}</div>\n')
    return f'<section id="figures">\n<h2>Figures</h2>\n{"".join(parts)}</section>\n' if parts else ""


def _data_uri(folder: Path, path: str) -> str | None:
    file = folder / path
    kind = _IMAGE_TYPES.get(file.suffix.lower())
    # a page that is passed on shows nothing from outside the run
    is_inside = file.resolve().is_relative_to(folder.resolve())
    if kind is None or not is_inside or not file.is_file():
        return None
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")

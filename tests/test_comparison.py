"""The report that compares runs, on runs with known numbers, and the sparse coding experiment's part in it."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

import unroll_jax as uj
from experiments import cli, data
from experiments.comparison import ReportCommand, compare, differing_settings, join_cells, read_runs, settings_of
from experiments.report import Figure, Table, markdown_table, write_json
from experiments.sparse_coding import evaluation, networks
from experiments.sparse_coding import problem as problems
from experiments.sparse_coding import report as sparse_coding_report
from experiments.sparse_coding.settings import QUICK

ENVIRONMENT = {
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "device_kind": "cpu",
    "device_count": 1,
    "cpu_count": 2,
    "x64": False,
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "date_utc": "2026-01-02T03:04:05+00:00",
}
# the smallest PNG: one pixel
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write_run(
    folder: Path, *tables: Table, seed: int = 0, settings: dict | None = None, figures=(), **metrics: Any
) -> Path:
    folder.mkdir(parents=True)
    write_json(
        folder / "metrics.json",
        {
            "experiment": "toy",
            "command": {"seed": seed, "out": folder, "num_steps": None},
            "settings": {"num_steps": 10} if settings is None else settings,
            "environment": ENVIRONMENT,
            "tables": tables,
            "figures": figures,
            "total_seconds": 75.0,
        }
        | metrics,
    )
    return folder


def networks_table(*rows, headers=("network", "PSNR"), title="Networks", note=""):
    return Table(title, note, headers, rows)


def three_seeds(folder: Path) -> list[Path]:
    values = [("27.1", "9 (90 %)", "yes"), ("27.4", "9 (92 %)", "yes"), ("28.0", "9 (97 %)", "no")]
    return [
        write_run(
            folder / f"seed{seed}",
            networks_table(("plain", *cells), headers=("network", "PSNR", "layers", "holds")),
            seed=seed,
        )
        for seed, cells in enumerate(values)
    ]


class Page(HTMLParser):
    """What a browser would make of a page: its tables by section, images, links, and whether its tags pair up."""

    VOID = ("meta", "img", "link", "br", "hr", "input")

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.classes: dict[str, list[str]] = {}
        self.images: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.title = ""
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        attributes = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attributes["id"] or ""
        elif tag == "table":
            self.tables.setdefault(self.section, []).append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1][-1].append("")
            self.classes.setdefault(self.section, []).append(attributes.get("class") or "")
        elif tag == "img":
            self.images.append((attributes["alt"] or "", attributes["src"] or ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["title"]:
            self.title += data
        if "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1][-1] += data
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


# --- joined numbers ---


@pytest.mark.parametrize(
    ("cells", "joined"),
    [
        (["1.0", "2.0", "3.0"], "2.0 ± 1.0"),
        (["0.1938", "0.1963", "0.2009"], "0.197 ± 0.004"),  # 0.1970, 0.00360
        (["79.4", "81.0", "82.2"], "80.9 ± 1.4"),
        (["157", "163", "150"], "157 ± 7"),  # 156.67, 6.51
        (["6", "6", "7"], "6.3 ± 0.6"),
        (["+0.0326", "+0.0336", "+0.0261"], "+0.031 ± 0.004"),
        (["-0.004", "+0.004"], "+0.000 ± 0.006"),
        (["-0.5", "0.49"], "0.0 ± 0.7"),  # no minus before a zero
        (["27.31 ± 0.05 dB", "27.51 ± 0.05 dB"], "27.41 ± 0.14 dB"),
        (["27.31 ± 0.05 dB"], "27.31 ± 0.05 dB"),
        (["27.31 dB", "27.51 dB"], "27.41 ± 0.14 dB"),
        (["+0.030 ± 0.002", "+0.034 ± 0.001"], "+0.0320 ± 0.0028"),
        (["0.5 ± 0.1", "0.5 ± 0.1"], "0.5"),
        (["0.61 (79)", "0.65 (81)"], "0.630 ± 0.028 (80.0 ± 1.4)"),
        (["1,200", "1,300"], "1,250 ± 70"),
        (["1.19e+06", "1.21e+06"], "1200000 ± 14000"),
        (["1.5e-7", "1.7e-7"], "1.60e-07 ± 1.4e-08"),
        (["10", "10", "10"], "10"),
        (["1.0", "1.00"], "1.0"),
        (["yes", "yes"], "yes"),
        (["yes", "no", "yes"], "yes / no / yes"),
        (["1.0", "-", "2.0"], "1.0 / - / 2.0"),
        (["1.0", "nan"], "1.0 / nan"),
        (["10 ms", "1 s"], "10 ms / 1 s"),
        (["0.61", "0.65 (81)"], "0.61 / 0.65 (81)"),
        (["1e999", "1"], "1e999 / 1"),
        (["3 of 10", "4 of 10"], "3 of 10 / 4 of 10"),
    ],
)
def test_cells_of_several_runs_are_joined(cells, joined):
    assert join_cells(cells) == joined


@given(st.lists(st.integers(-(10**7), 10**7), min_size=2, max_size=6))
def test_joined_numbers_are_near_the_mean_and_the_sample_deviation(thousandths):
    numbers = np.array(thousandths) / 1000
    shown = join_cells([f"{number:.3f}" for number in numbers]).split(" ± ")
    mean, deviation = np.mean(numbers), np.std(numbers, ddof=1)
    # one digit is enough from 3.55 on; and never more than one digit beyond those of the runs
    tolerance = 0.15 * deviation + 0.5001e-4
    assert abs(float(shown[0]) - mean) <= tolerance
    assert abs(float(shown[1] if len(shown) == 2 else 0) - deviation) <= tolerance


def test_runs_that_differ_in_the_seed_are_joined(tmp_path):
    comparison = compare(three_seeds(tmp_path))
    page = Page(comparison.page)
    headers, rows = ["network", "PSNR", "layers", "holds"], [["plain", "27.5 ± 0.5", "9 (93 ± 4 %)", "yes / yes / no"]]
    assert page.tables["table-1"] == [[headers, *rows]]
    assert comparison.summary.startswith(markdown_table(headers, rows))
    assert "over 3 runs (seeds 0, 1, 2)" in comparison.summary
    assert "differ in the seed alone" in page.text and "over 3 runs (seeds 0, 1, 2)" in page.text
    assert page.tables["settings"][0] == [["", "A", "B", "C"], ["seed", "0", "1", "2"]]
    assert page.title == "toy: 3 runs"


def test_what_is_missing_in_a_joined_run_is_a_dash(tmp_path):
    runs = [
        write_run(tmp_path / "a", networks_table(("plain", "1.0"), ("tail", "2.0")), seed=0),
        write_run(tmp_path / "b", networks_table(("plain", "2.0", "3"), headers=("network", "PSNR", "time")), seed=1),
    ]
    assert Page(compare(runs).page).tables["table-1"] == [
        [["network", "PSNR", "time"], ["plain", "1.5 ± 0.7", "- / 3"], ["tail", "2.0 / -", "-"]]
    ]


@pytest.mark.parametrize(
    ("second", "caution"),
    [
        ({"seed": 1}, None),
        ({"seed": 0}, "some runs have the same seed"),
        ({"seed": 1, "environment": ENVIRONMENT | {"git_commit": "f" * 40}}, "the runs differ in commit too"),
        ({"seed": 1, "environment": {}}, "the runs differ in commit and device and versions too"),
        ({"seed": 0, "settings": {"num_steps": 7}}, None),  # not joined
    ],
)
def test_a_spread_that_is_not_that_of_the_seeds_is_told(tmp_path, second, caution):
    table = networks_table(("plain", "1.0"))
    comparison = compare([write_run(tmp_path / "a", table), write_run(tmp_path / "b", table, **second)])
    page = Page(comparison.page)
    for text in (page.text, comparison.summary):
        assert caution in text if caution else "Beware" not in text


# --- runs side by side ---


def test_runs_with_other_settings_stand_side_by_side(tmp_path):
    first = networks_table(("plain", "1.0", "9"), ("tail", "2.0", "8"), headers=("network", "x", "y"))
    rows = ("plain", "1.5", "7", "9"), ("new", "3", "4", "5")
    second = networks_table(*rows, headers=("network", "x", "between", "y"))
    runs = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second, settings={"num_steps": 20})]
    comparison = compare(runs)
    page = Page(comparison.page)
    assert page.tables["table-1"] == [
        [
            ["network", "x", "between", "y"],
            ["A", "B", "A", "B", "A", "B"],
            ["plain", "1.0", "1.5", "-", "7", "9", "9"],
            ["new", "-", "3", "-", "4", "-", "5"],
            ["tail", "2.0", "-", "-", "-", "8", "-"],
        ]
    ]
    # only what the runs agree in is grey: 9 in `plain`, and what neither has
    cells = [cell for row in page.tables["table-1"][0] for cell in row]
    classes = page.classes["table-1"]
    assert [cell for cell, names in zip(cells, classes, strict=True) if "same" in names] == ["9", "9", "-", "-"]
    assert comparison.summary.splitlines()[2:4] == [
        "| plain   | A   | 1.0 |       - |  9 |",
        "| plain   | B   | 1.5 |       7 |  9 |",
    ]
    assert "differ in their settings" in page.text
    assert page.tables["settings"] == [
        [["", "A", "B"], ["num_steps", "10", "20"]],
        [["", "value"], ["experiment", "toy"], ["seed", "0"]],
    ]


def test_a_table_that_only_some_runs_have(tmp_path):
    runs = [
        write_run(tmp_path / "a", networks_table(("plain", "1")), experiment="one"),
        write_run(
            tmp_path / "b", networks_table(("plain", "2")), networks_table(("x", "3"), title="More"), experiment="two"
        ),
        write_run(tmp_path / "c", networks_table(("x", "4"), title="More"), experiment="two"),
    ]
    page = Page(compare(runs).page)
    assert page.title == "one, two: 3 runs"
    assert page.tables["table-1"] == [[["network", "PSNR"], ["A", "B"], ["plain", "1", "2"]]]
    assert page.tables["table-2"] == [[["network", "PSNR"], ["B", "C"], ["x", "3", "4"]]]
    assert "In runs A and B only." in page.text and "In runs B and C only." in page.text


def test_one_run_is_shown_as_it_is(tmp_path):
    table = networks_table(("plain", "1.0 ± 0.1"), ("tail", 3))
    comparison = compare([write_run(tmp_path / "a", table)])
    page = Page(comparison.page)
    assert page.tables["table-1"] == [[["network", "PSNR"], ["plain", "1.0 ± 0.1"], ["tail", "3"]]]
    assert comparison.summary == f"{table.markdown()}\n\nA: {tmp_path / 'a'}"
    assert "Mean ±" not in page.text


def test_rows_of_one_name_keep_apart_and_cells_that_are_no_text_are_told(tmp_path):
    table = {"title": "T", "note": "", "headers": ["", "x"], "rows": [["a", None], ["a", True], ["b", 0.5]]}
    runs = [write_run(tmp_path / name, tables=[table]) for name in "ab"]
    assert Page(compare(runs).page).tables["table-1"] == [[["", "x"], ["a", "-"], ["a", "yes"], ["b", "0.5"]]]


def test_runs_without_tables_can_be_compared(tmp_path):
    comparison = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b")])
    assert comparison.summary == "The runs have no tables."
    assert set(Page(comparison.page).tables) == {"runs", "settings"}


def test_what_was_run_is_told(tmp_path):
    dirty = ENVIRONMENT | {"git_commit": "0" * 40 + "-dirty", "device_count": 4, "x64": True}
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", seed=3, environment=dirty, total_seconds=3.21),
        write_run(tmp_path / "c", environment=None, total_seconds=None, experiment=None, command=None),
        write_run(tmp_path / "d", total_seconds=7260),
    ]
    rows = Page(compare(runs).page).tables["runs"][0]
    assert rows == [
        ["", "A", "B", "C", "D"],
        ["folder", *map(str, runs)],
        ["experiment", "toy", "toy", "-", "toy"],
        ["seed", "0", "3", "-", "0"],
        ["date", "2026-01-02 03:04:05 UTC", "2026-01-02 03:04:05 UTC", "-", "2026-01-02 03:04:05 UTC"],
        ["commit", "0123456789ab", "000000000000 and changes not committed", "unknown", "0123456789ab"],
        ["device", "cpu, 2 CPU cores", "cpu x 4, 2 CPU cores, double precision", "unknown", "cpu, 2 CPU cores"],
        ["versions", "jax 0.10.2, python 3.11.7", "jax 0.10.2, python 3.11.7", "-", "jax 0.10.2, python 3.11.7"],
        ["total time", "1 min 15 s", "3.2 s", "-", "2 h 1 min"],
    ]


def test_runs_are_labelled_like_the_columns_of_a_spreadsheet(tmp_path):
    labels = [run.label for run in read_runs([write_run(tmp_path / str(index)) for index in range(28)])]
    assert labels[:2] + labels[-3:] == ["A", "B", "Z", "AA", "AB"]


# --- settings ---


def test_an_option_counts_by_the_setting_it_led_to(tmp_path):
    by_preset = write_run(tmp_path / "a", command={"num_steps": None, "seed": 0, "out": "x", "data": None})
    by_hand = write_run(tmp_path / "b", command={"num_steps": 10, "seed": 0, "out": "y", "data": None, "resume": "b"})
    runs = read_runs([by_preset, by_hand])
    assert settings_of(runs[0]) == {"experiment": "toy", "seed": "0", "data": "not set", "num_steps": "10"}
    assert differing_settings(runs) == []


def test_nested_settings_are_flattened_and_missing_ones_differ(tmp_path):
    runs = read_runs(
        [
            write_run(tmp_path / "a", settings={"adam": {"rate": 0.1, "betas": [0.9, 0.99]}, "empty": {}}),
            write_run(tmp_path / "b", settings={"adam": {"rate": 0.2, "betas": [0.9, 0.99]}, "empty": {}, "new": True}),
        ]
    )
    assert settings_of(runs[1]).items() >= {"adam.rate": "0.2", "adam.betas": "[0.9, 0.99]", "new": "true"}.items()
    assert differing_settings(runs) == ["adam.rate", "new"]


# --- the page ---


def test_notes_are_set_once_for_tables_in_a_row(tmp_path):
    note = "Two\nlines.\n\n- one\n  more\n- two 95 %"
    tables = [networks_table(("a", "1"), title=title, note=note) for title in "xy"]
    page = Page(compare([write_run(tmp_path / "a", *tables)]).page)
    assert page.text.count("Two lines.") == 1
    assert "one more" in page.texts and "two 95\N{NO-BREAK SPACE}%" in page.texts
    assert page.tags.count("li") == 2 + len(["Runs", "Settings", "x", "y"])


def test_notes_that_differ_name_their_runs(tmp_path):
    runs = [
        write_run(tmp_path / name, networks_table(("a", "1"), note=f"Rate of {name}."), settings={"rate": name})
        for name in "xy"
    ]
    assert "A: Rate of x. B: Rate of y." in Page(compare(runs).page).text


def test_all_text_is_escaped(tmp_path):
    bad = "<script>alert(1)</script>\" onload='x' &amp; </style></title>"
    table = Table(f"title {bad}", f"note {bad}\n\n- item {bad}", [f"h {bad}", f"c {bad}"], [[f"r {bad}", f"v {bad}"]])
    folders = [tmp_path / '<b>"&', tmp_path / "other"]
    for seed, folder in enumerate(folders):
        write_run(
            folder,
            table,
            seed=seed,
            experiment=f"experiment {bad}",
            settings={f"name {bad}": f"value {bad}", "varies": f"{seed} {bad}"},
            environment=ENVIRONMENT | {"device_kind": bad, "git_commit": bad, "date_utc": bad, "versions": {bad: bad}},
            figures=[Figure("a.png", f"caption {bad}")],
        )
        (folder / "a.png").write_bytes(PIXEL)
    text = compare(folders).page
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert f"title {bad}" in page.texts and f"note {bad}" in page.texts and f"item {bad}" in page.texts
    assert page.tables["table-1"][0][0][0] == f"h {bad}"
    assert page.tables["table-1"][0][2] == [f"r {bad}", f"v {bad}", f"v {bad}"]
    assert page.images[0][0] == f"caption {bad} Run A."
    assert page.title == f"experiment {bad}: 2 runs"


def test_the_page_opens_without_a_network(tmp_path):
    run = write_run(tmp_path / "a", networks_table(("a", "1")), figures=[Figure("a.png", "One pixel.")])
    (run / "a.png").write_bytes(PIXEL)
    text = compare([run]).page
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|src=\"(?!data:)|<script|<link", text)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    ids = {value for name, value in page.attributes if name == "id"}
    assert {f"#{anchor}" for anchor in ids} == {value for name, value in page.attributes if name == "href"}
    assert compare([run]).page == text


def test_figures_are_embedded_byte_for_byte(tmp_path):
    figures = [Figure("figures/one.png", "One."), Figure("figures/two.svg", "Two."), Figure("figures/no.png", "None.")]
    runs = [write_run(tmp_path / name, figures=figures, seed=seed) for seed, name in enumerate("ab")]
    files = {(0, "one.png"): PIXEL, (1, "one.png"): PIXEL + b"other", (1, "two.svg"): b"<svg></svg>"}
    for (index, name), content in files.items():
        (runs[index] / "figures").mkdir(exist_ok=True)
        (runs[index] / "figures" / name).write_bytes(content)
    page = Page(compare(runs).page)
    assert [alt for alt, _ in page.images] == ["One. Run A.", "One. Run B.", "Two. Run B."]
    assert [base64.b64decode(source.partition(",")[2]) for _, source in page.images] == list(files.values())
    assert [source.partition(";")[0] for _, source in page.images] == ["data:image/png"] * 2 + ["data:image/svg+xml"]
    assert "None." not in page.text


def test_nothing_outside_a_run_is_embedded(tmp_path):
    (tmp_path / "secret.png").write_bytes(PIXEL)
    paths = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "metrics.json"]
    run = write_run(tmp_path / "a", figures=[Figure(path, path) for path in paths])
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    assert Page(compare([run]).page).images == []


# --- the command ---


def test_the_command_writes_the_page_and_prints_the_main_table(tmp_path, capsys):
    runs = three_seeds(tmp_path)
    out = tmp_path / "new" / "page.html"
    for _ in range(2):  # an older page is replaced
        tyro.cli(ReportCommand, args=[*map(str, runs), "--out", str(out)]).run()
        printed = capsys.readouterr().out
        assert printed == f"{compare(runs).summary}\n\nWritten to {out}.\n"
        assert out.read_text(encoding="utf-8") == compare(runs).page
        assert list(out.parent.iterdir()) == [out]


class Misuse(NamedTuple):
    """Files by path under a folder, arguments relative to it, and what is said."""

    files: dict[str, str]
    arguments: list[str]
    message: str


GOOD = '{"tables": []}'
MISUSES = [
    Misuse({}, [], "`RUN` must name at least one run folder"),
    Misuse({}, ["no"], "nothing lies at .*no"),
    Misuse({"a/metrics.json": GOOD}, ["a/metrics.json"], "`RUN` must name run folders, got the file .*metrics.json"),
    Misuse({"a/report.md": ""}, ["a"], "a is no run folder: it has no metrics.json"),
    Misuse({"a/config.json": "{}"}, ["a"], "a is unfinished: it has no metrics.json. `--resume .*a` finishes it"),
    Misuse({"a/checkpoints/1.npz": ""}, ["a"], "a is unfinished"),
    Misuse({"a/metrics.json": '{"tables": ['}, ["a"], "metrics.json is damaged: it is no JSON"),
    Misuse({"a/metrics.json": "\udcff"}, ["a"], "metrics.json is damaged: it is no JSON"),
    Misuse({"a/metrics.json": "[]"}, ["a"], "metrics.json is damaged: it must hold an object, got list"),
    Misuse({"a/metrics.json": "{}"}, ["a"], 'metrics.json has no "tables": an older version wrote it'),
    Misuse({"a/metrics.json": '{"tables": 1}'}, ["a"], "metrics.json is damaged: its .* cannot be read"),
    Misuse({"a/metrics.json": '{"tables": [{"title": "x"}]}'}, ["a"], "metrics.json is damaged: its .*'headers'"),
    Misuse(
        {"a/metrics.json": '{"tables": [{"title": "x", "note": "", "headers": ["a"], "rows": [[1, 2]]}]}'},
        ["a"],
        "the rows of 'x' do not fit its headers",
    ),
    Misuse(
        {"a/metrics.json": '{"tables": [{"title": "x", "note": "", "headers": ["a"], "rows": [[[]]]}]}'},
        ["a"],
        "a cell must be a text or a number, got list",
    ),
    Misuse(
        {"a/metrics.json": f'{{"tables": [{", ".join(2 * [json.dumps(networks_table(("a", 1))._asdict())])}]}}'},
        ["a"],
        "metrics.json is damaged: two of its tables have one title",
    ),
    Misuse({"a/metrics.json": '{"tables": [], "figures": [1]}'}, ["a"], "metrics.json is damaged: its .* cannot be"),
    Misuse({"a/metrics.json": GOOD}, ["a", "a/../a"], "`RUN` must name each run once"),
    Misuse({"a/metrics.json": GOOD}, ["a", "--out", "a"], "`--out` .*a is a folder. Name a file"),
    Misuse({"a/metrics.json": GOOD}, ["a", "--out", "a/metrics.json"], "`--out` must end in .html"),
    Misuse({"a/metrics.json": GOOD}, ["a", "--out", "a/metrics.json/x.html"], "`--out` .* cannot be written"),
]


@pytest.mark.parametrize("misuse", MISUSES, ids=lambda misuse: misuse.message)
def test_misuse_is_told_in_one_line_and_leaves_an_older_page(tmp_path, monkeypatch, capsys, misuse):
    for name, content in misuse.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "report.html").write_text("older")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    command = tyro.cli(ReportCommand, args=misuse.arguments)
    with pytest.raises(cli._USER_ERRORS, match=misuse.message) as raised:
        command.run()
    assert "\n" not in str(raised.value)
    assert (tmp_path / "report.html").read_text() == "older"
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().out == ""


def test_a_page_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    run = write_run(tmp_path / "a")
    out = tmp_path / "report.html"
    out.write_text("older")

    def full(self, *_, **__):
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"`--out` .*report.html cannot be written .*no space left"):
        ReportCommand((run,), out).run()
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.html"]


# --- the sparse coding experiment ---


@pytest.fixture(scope="module")
def results():
    settings = dataclasses.replace(
        QUICK,
        patch_size=4,
        num_train=64,
        num_held_out=32,
        dictionary_rounds=1,
        num_layers=2,
        noise_levels=(0.1, 1.0),
        shift_levels=(0.5,),
        num_shifted=16,
    )
    rng = np.random.default_rng(0)
    images = [data.Image(f"{i}", rng.random((16, 16), np.float32)) for i in range(12)]
    problem = problems.make_problem(settings, images, seed=0)
    shifts = evaluation.make_shifts(problem, settings, seed=2)
    # one untrained network in the place of all
    network = networks.make_network(problem.task, settings, networks.VARIANTS[0], seed=0)
    found = evaluation.evaluate(network, problem, settings, shifts)
    history = networks.History(np.arange(3), np.ones(3), violation={}, multipliers={}, seconds=1.0)
    names = [variant.name for variant in networks.VARIANTS]
    return sparse_coding_report.Results(
        command={"seed": 0, "out": None},
        settings=settings,
        environment=ENVIRONMENT,
        problem=problem,
        num_images=len(images),
        evaluations=dict.fromkeys(names, found),
        histories=dict.fromkeys(names, history),
        shift_levels=[shift.level for shift in shifts],
        total_seconds=2.0,
    )


def test_sparse_coding_reports_and_stores_the_same_tables(results, tmp_path):
    assert isinstance(results.evaluations["plain"].certificate, uj.Certificate)
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    paths = [run / "figures" / f"{name}.png" for name in ("distance", "noise")]
    for path in paths:
        path.write_bytes(PIXEL)
    write_json(run / "metrics.json", sparse_coding_report.metrics(results, paths, run))
    stored = json.loads((run / "metrics.json").read_text())
    report = sparse_coding_report.markdown(results, paths, run)
    summary = sparse_coding_report.summary(results)

    printed = [block for block in report.split("\n\n") if block.startswith("|")]
    assert [markdown_table(table["headers"], table["rows"]) for table in stored["tables"]] == printed
    assert summary.startswith(printed[0] + "\n\n")
    assert len(printed) == 1 + len(networks.VARIANTS) + 2
    assert all(table["note"] in report for table in stored["tables"])
    assert stored["tables"][0]["note"] in summary
    assert all(f"{figure['caption']}\n\n![" in report for figure in stored["figures"])
    assert all(f"]({figure['path']})" in report for figure in stored["figures"])

    comparison = compare([run])
    page = Page(comparison.page)
    assert page.title == "sparse-coding: 1 run"
    assert page.tables["table-1"][0][1:] == [[str(cell) for cell in row] for row in stored["tables"][0]["rows"]]
    assert comparison.summary.startswith(printed[0])
    assert [base64.b64decode(source.partition(",")[2]) for _, source in page.images] == [PIXEL, PIXEL]

"""The report: whatever the steps counted, as one page that runs nothing and loads nothing."""

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from indexer.build.report import render_report, show_value
from indexer.line_plot import NAME_WIDTH, WIDTH, Range, Series, draw_lines, draw_ranges

NASTY = '<script>alert("1")</script>&\u202e\x1b[31m'
SHOWN = '<script>alert("1")</script>&\\u202e\\x1b[31m'


class Page(HTMLParser):
    """Collects tags and text, and checks that tags nest."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


STORY = {
    "run_id": "2026-11-20-abc",
    "run_date": "2026-11-20",
    "steps": [
        {"step": "npmi_pairs", "seconds": 1.5, "counts": {"pairs": {"kept": 12345, "dropped": 7}}, "rejects": []},
        {
            "step": "distill",
            "seconds": 60,
            "counts": {
                "evaluation": [
                    {"encoder": "teacher", "roc_auc": 0.91234},
                    {"encoder": "student", "roc_auc": 0.9, "ndcg_10": 0.8},
                ],
                "student": {"history": [{"epoch": 1, "loss": 0.9, "auc": 0.7}, {"epoch": 2, "loss": 0.4, "auc": 0.8}]},
            },
            "rejects": [{"table": "LABELS", "reason": NASTY, "key": NASTY, "sample": None, "count": 2}],
        },
    ],
    "gates": [
        {"name": "recall@10", "expected": "at least 0.95", "found": 0.97, "passed": True},
        {"name": "norm", "expected": "at most 0.001", "found": 2.0, "passed": False},
    ],
    "collections": [{"name": "products", "rows": 300, "recall_10": 0.97}],
    "funnel": [{"collection": "products", "read": 310, "rejected title_missing": -10, "indexed": 300}],
    "search": [
        {
            "name": "products",
            "figures": {"efSearch": 24},
            "curve": [
                {"ef_search": 16, "recall_10": 0.9, "recall_100": 0.8, "ms": 0.1},
                {"ef_search": 24, "recall_10": 0.97, "recall_100": 0.9, "ms": 0.2},
            ],
            "shards": [{"shard": 0, "recall_10": 0.9612}],
        }
    ],
    "drift": [
        {
            "name": "products",
            "figures": {"rows before": 299},
            "canaries": [
                {
                    "query": NASTY,
                    "overlap": 0.9,
                    "hits": [
                        {"live": {"id": "P-gone", "text": NASTY, "changed": True}, "new": None},
                        {"live": None, "new": {"id": "P-stays", "text": "mug", "changed": False}},
                    ],
                }
            ],
        }
    ],
    "golden": [{"query": NASTY, "product_id": "P-gold", "within": 3, "what": "not within its rank"}],
    "sizes": [{"collection": "products", "kind": "index", "objects": 2, "bytes": 4321, "kept bytes": 1234}],
    "stages": [{"stage": "embed and index", "seconds": 7.25}],
    "versions": {"faiss": "1.15.1"},
    "config": {"catalogue": {"text_separator": NASTY}},
}


def test_every_figure_is_shown():
    page = Page(render_report(STORY))
    for text in ("npmi_pairs", "pairs kept", "12,345", "0.9123", "ndcg_10", "0.8000", "refused", "passed", "1.15.1"):
        assert text in page.text
    for text in ("rejected title_missing", "efSearch", "0.9612", "299", "P-gold", "4,321", "1,234", "7.2500"):
        assert text in page.text
    # What one of two releases lacks is marked.
    assert f"P-gone {SHOWN} *" in page.text
    assert "P-stays mug *" not in page.text


def test_text_of_the_shop_is_never_markup():
    source = render_report(STORY)
    assert "<script" not in source
    assert SHOWN in Page(source).text
    assert not {"\u202e", "\x1b"} & set(source)


def test_the_page_loads_and_runs_nothing():
    page = Page(render_report(STORY))
    assert not {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"src", "href", "style", "onload"} & set(attributes), tag
    assert "Content-Security-Policy" in render_report(STORY)


def test_a_history_is_drawn_and_listed():
    page = Page(render_report(STORY))
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"] == [
        *("recall_10, recall_100", "ms"),
        *("loss", "auc"),
    ]


def test_deciles_of_a_calibration_are_drawn_over_tau():
    deciles = [{"npmi_above": low, "agreement": low, "agreement_above": 0.9} for low in (0.2, 0.4)]
    steps = [{"step": "calibrate_npmi", "seconds": 1, "counts": {"figures": {"deciles": deciles}}, "rejects": []}]
    page = Page(render_report({"steps": steps}))
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"] == ["agreement, agreement_above"]


def test_an_empty_story_is_a_page():
    assert "Configuration" in Page(render_report({})).text


def test_a_line_runs_from_corner_to_corner():
    svg = ET.fromstring(draw_lines([Series("loss", [(1, 0.0), (2, 5.0), (3, 10.0)])], label="epoch"))
    points = svg.find("polyline").get("points").split()
    assert points == ["52.0,140.0", "201.0,75.0", "350.0,10.0"]
    assert [text.text for text in svg.findall("text")] == ["0", "5", "10", "1", "3", "epoch"]


def test_a_flat_line_lies_in_the_middle():
    svg = ET.fromstring(draw_lines([Series("a", [(0, 1.0), (1, 1.0)])], label="x"))
    assert svg.find("polyline").get("points") == "52.0,75.0 350.0,75.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.5, "0.5000"),
        (12345.67, "12,345.7"),
        ({"a": 1}, "a 1"),
        ([], "-"),
    ],
)
def test_values_are_written_for_people(value: object, text: str):
    assert show_value(value) == text


def test_a_refused_release_says_so_first():
    page = render_report({"run_id": "r", "refused": "recall@10 <b>too low</b>"})
    assert "Refused, not live: recall@10 &lt;b&gt;too low&lt;/b&gt;" in page
    assert "Refused" not in render_report({"run_id": "r"})


def test_ranges_lie_about_a_line_at_zero():
    rows = [Range("better <b>", 0.1, 0.05, 0.15), Range("alike", -0.01, -0.05, 0.03)]
    svg = ET.fromstring(draw_ranges(rows, label="difference"))
    paths = [float(path.get("d").split()[0][1:]) for path in svg.iter("path")]
    dots = list(svg.iter("circle"))
    zero, better_low, alike_low = paths
    better, alike = (float(dot.get("cx")) for dot in dots)
    assert NAME_WIDTH < alike_low < alike < zero < better_low < better < NAME_WIDTH + WIDTH
    # From -0.05 to 0.15 the zero lies at a quarter.
    assert (zero - alike_low) == pytest.approx((better_low - alike_low) / 2, abs=0.2)
    assert dots[1].get("fill") == "#fff" != dots[0].get("fill")
    assert dots[0][0].text == "better <b>: +0.1000 [+0.0500, +0.1500]"
    assert draw_ranges([], label="nothing").startswith("<svg")

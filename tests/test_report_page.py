"""The comparer's page in a real browser: what it shows, at which widths, and that it asks for nothing."""

import html
import json
import re
import shutil
import subprocess

import pytest

from ort_cks.comparison import report_html
from ort_cks.comparison.errors import OutputError, tolerance_for
from ort_cks.comparison.placement import NodeRow
from ort_cks.comparison.result import ComparisonResult, Contender
from ort_cks.comparison.timing import Latency

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser (apt-get install chromium)")

HOSTILE = "head/</script><img src=http://example.invalid/x.png onerror=alert(1)>/conv"


def comparison(**changes) -> ComparisonResult:
    """Ours in 2 ms, the original in 3 and 4; one convolution with zeros, one without, one not ours."""

    def ran(label: str, middle: float, error: float) -> Contender:
        runs = tuple(middle * (1 + 0.001 * ((7 * i) % 101 - 50)) for i in range(101))
        return Contender(label, None, Latency(runs), [OutputError("y", error, error / 2, 0, 0, 4096)])

    nodes = [
        NodeRow(
            "body/dilated", "SkDilated", "SkDilated", "CUDAExecutionProvider", 3_000_000, 0.75, ("Relu",)
        ),
        NodeRow(HOSTILE, "ConvV2", "ConvV2", "CUDAExecutionProvider", 1_000_000, 0.0, ()),
        NodeRow("quantized", "Conv", "Conv", "CPUExecutionProvider", 1_000_000, 0.5, (), "it is quantized"),
    ]
    return ComparisonResult(
        **{
            "model": "models/segmentation_with_quite_a_long_name_for_a_phone.onnx",
            "rewritten": "rewritten in memory",
            "provider": "cuda",
            "precision": "fp16",
            "cuda_graph": True,
            "warmup": 5,
            "inputs": {"x": "float16 [1, 3, 224, 224]"},
            "reference": "the original in float32, TF32 off",
            "tolerance": tolerance_for("fp16"),
            "ours": ran("ours", 2.0, 3e-3),
            "baselines": [ran("original, NCHW", 4.0, 4e-3), ran("original, NHWC", 3.0, 4e-3)],
            "nodes": nodes,
            "machine": {"machine": "NVIDIA H200", "driver": "580.159", "onnxruntime": "1.31.1"},
            "notes": ["input 'x': batch N taken as 1"],
        }
        | changes
    )


def browse(folder, page: str, *arguments: str) -> tuple[str, list[str]]:
    """What Chromium prints of the page, and what its console says."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    flags += ["--disable-background-networking", f"--user-data-dir={folder / 'profile'}"]
    ran = subprocess.run(
        [CHROMIUM, *flags, *arguments, path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]


MEASURE = """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const page = frame.contentDocument, shown = e => e.getClientRects().length > 0 && e.textContent.trim();
  const leaves = [...page.body.querySelectorAll("*")].filter(e => !e.children.length && !e.closest("script"));
  const boxes = [...page.querySelectorAll("svg")].map(e => e.getBoundingClientRect());
  const out = document.createElement("pre");
  out.textContent = JSON.stringify({
    text: page.body.innerText,
    width: page.documentElement.scrollWidth,
    smallest: Math.min(...leaves.filter(shown).map(e => parseFloat(getComputedStyle(e).fontSize))),
    bars: [...page.querySelectorAll("svg")].map(e => e.querySelectorAll("rect").length),
    charts: boxes.map(box => [box.width, box.height]),
    medians: [...page.querySelectorAll("svg line")].map(e => e.getBoundingClientRect().x),
    images: page.images.length,
  });
  document.body.append(out);
};
"""


def measured(folder, page: str, width: int) -> dict:
    """The page in a frame of the given width, measured by a script outside it."""
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}"></iframe>'
    wrapper = f"<!doctype html><meta charset=utf-8><body>{frame}<script>{MEASURE}</script></body>"
    dom, console = browse(folder, wrapper, "--dump-dom", f"--window-size={width + 100},1000")
    assert not console
    (found,) = re.findall(r"<pre>(.*)</pre>", dom, re.DOTALL)
    return json.loads(html.unescape(found))


@pytest.mark.parametrize("width", [360, 1100])
def test_what_a_reader_sees(width, tmp_path):
    seen = measured(tmp_path, report_html.render(comparison()), width)
    assert seen["width"] <= width  # nothing to scroll sideways
    assert seen["smallest"] >= 12
    assert seen["images"] == 0
    text = " ".join(seen["text"].split())
    assert "1.50x as fast as 'original, NHWC'" in text
    assert "2.000 ms median of a run, against 3.000 ms" in text
    assert "45% of the multiply-adds are zeros, and skipped" in text  # 0.75 of 3 of 5 millions
    assert "2 of 3 convolutions ran in ort_cks" in text
    assert "1.5e-03 largest error" in text
    for words in (HOSTILE, "75.0%", "it is quantized", "NVIDIA H200", "580.159", "batch N taken as 1"):
        assert words in text
    assert len(seen["charts"]) == 3
    assert all(bars > 5 for bars in seen["bars"])
    assert all(w > 0.6 * width and h >= 40 for w, h in seen["charts"])
    ours, nchw, nhwc = seen["medians"]
    assert ours < nhwc < nchw


def test_failures_are_shown(tmp_path):
    wrong = Contender("ours", None, Latency((1.0,)), [OutputError("y", 9.0, 0.5, 17, 3, 64)])
    failed = Contender("original", failure="no such kernel")
    seen = measured(tmp_path, report_html.render(comparison(ours=wrong, baselines=[failed])), 360)
    text = " ".join(seen["text"].split())
    assert "y: 17 of 64 elements beyond" in text
    assert "failed: no such kernel" in text
    assert "as fast as" not in text
    assert seen["width"] <= 360


def test_nothing_is_asked_of_a_network_or_a_script(tmp_path):
    """The page forbids both to itself; a browser says so on the console where something tries."""
    page = report_html.render(comparison())
    _, console = browse(tmp_path, page, "--dump-dom")
    assert console == []
    for attempt in ('<img src="https://example.invalid/x.png">', "<script>document.title = 1</script>"):
        _, console = browse(tmp_path, page.replace("<main>", f"<main>{attempt}"), "--dump-dom")
        assert any("Content Security Policy" in line for line in console), attempt


COLOURS = {"light": ("#f5f7f9", "#1f7a55"), "dark": ("#12171d", "#4cc495")}


@pytest.mark.parametrize("scheme", COLOURS)
def test_screenshot(scheme, tmp_path):
    """The page's ground, cards and text on it, and the chart's bars, in the colours of the scheme."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    picture = tmp_path / "page.png"
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    page = report_html.render(comparison())
    browse(tmp_path, page, *dark, f"--screenshot={picture}", "--window-size=1000,1600")
    pixels = image.open(picture).convert("RGB")
    counts = dict(map(reversed, pixels.getcolors(pixels.width * pixels.height)))
    ground, accent = (tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[scheme])
    assert pixels.getpixel((3, 3)) == ground
    assert counts[ground] > 0.05 * pixels.width * pixels.height
    assert counts[accent] > 2000  # the bars of ours and of the zeros
    assert len(counts) > 100  # text has edges

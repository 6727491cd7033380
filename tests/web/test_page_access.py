"""The page without a mouse and without a screen: keys, focus, what is read out, contrast."""

import re

import pytest
from pages import IDLE, by_python, complaint, in_browser, shown, transcribe

from couloir import web

ORDER = ["file", "record", "text", "play", "zoom-out", "zoom-all", "zoom-in", "timeline"]
ORDER += ["save-textgrid", "copy", "save-wav", "SUMMARY"]
VALUES = "['now', 'max', 'text'].map((name) => document.querySelector('#timeline').getAttribute(`aria-value${name}`))"


def said_of(page, selector):
    """Role, name and how changes are announced, as a screen reader gets them."""
    found = page.call("Runtime.evaluate", expression=f"document.querySelector('{selector}')")["result"]
    (node,) = page.call("Accessibility.getPartialAXTree", objectId=found["objectId"], fetchRelatives=False)["nodes"]
    told = {entry["name"]: entry["value"].get("value") for entry in node["properties"]}
    return node["role"]["value"], node.get("name", {}).get("value"), told.get("live", "off")


def listen(page, *selectors):
    """Keep what these elements say from now on."""
    page.run("window.said = []")
    for selector in selectors:
        page.run(
            f"""new MutationObserver(([{{ target }}]) => said.push(target.textContent))
                .observe(document.querySelector('{selector}'), {{ childList: true }})"""
        )


@in_browser
def test_results_and_errors_are_read_out_and_playing_is_not(page, recordings, tmp_path):
    assert said_of(page, "#error")[2] == said_of(page, "#message")[2] == "polite"  # there before they say anything
    listen(page, "#about", "#error", "#message")
    transcribe(page, recordings / "long.wav")
    assert said_of(page, "#about")[2] == "polite"
    assert said_of(page, "#point")[2] == said_of(page, "#done")[2] == "off"
    said = [line for line in page.run("said") if line]
    assert said[:2] == ["Reading the recording", "Listening"]
    assert len(said) == 3 and re.match(r"\d+ phones found in 33.00 s, mean confidence 0", said[2])
    page.run("window.said = []")
    page.run("document.querySelector('#play').click()")
    page.wait("document.querySelector('#point').textContent", seconds=20)
    page.run("document.querySelector('#play').click()")
    assert page.run("said") == []
    (tmp_path / "empty.wav").touch()
    assert complaint(page, "#file", tmp_path / "empty.wav") == "empty.wav is empty (0 bytes)"
    assert "empty.wav is empty (0 bytes)" in page.run("said")


@in_browser
def test_tab_goes_everywhere_and_shows_where(page, recordings):
    transcribe(page, recordings / "short.wav")
    page.run("document.activeElement.blur()")
    visited = []
    for _ in ORDER:
        page.press("Tab")
        where = page.run("document.activeElement.id || document.activeElement.tagName")
        # What is seen of a file chooser is its label.
        seen = "(document.activeElement.labels?.[0] ?? document.activeElement)"
        style = page.run(f"['Style', 'Width'].map((what) => getComputedStyle({seen})[`outline${{what}}`])")
        assert style == ["solid", "2px"], where
        visited.append(where)
    assert visited == ORDER
    page.press("Enter")
    page.press("Tab")
    assert page.run("document.querySelector('#model').open && document.activeElement.id") == "model-files"
    names = [said_of(page, f"#{name}")[:2] for name in ORDER if name.islower()]
    assert all(name for _, name in names), names


@in_browser
def test_the_focus_survives_a_job(page, recordings):
    page.run("document.querySelector('#file').focus()")
    transcribe(page, recordings / "short.wav")
    page.wait("document.activeElement.id === 'file'")


@in_browser
def test_phones_are_stepped_through_by_keys(page, model, recordings, tmp_path):
    expected, _ = by_python(model / "audio-model.onnx", recordings / "short.wav", tmp_path)
    transcribe(page, recordings / "short.wav")
    assert said_of(page, "#timeline")[:2] == ("slider", "Cursor over waveform, spectrogram and phones")
    page.run("document.querySelector('#timeline').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "+", "-"):
        page.press(key)
    phone = expected.phones()[1]
    times = f"{phone.symbol}  {phone.start:.3f} to {phone.end:.3f} s"
    assert shown(page, "#point").startswith(times)
    assert shown(page, ".marked") == phone.symbol
    duration = f"{expected.duration:.3f}"
    assert page.run(VALUES) == [f"{phone.start:.3f}", duration, shown(page, "#point")]
    page.press(" ")
    page.wait("document.querySelector('#play').textContent === 'Pause'")
    page.press(" ")
    page.wait("document.querySelector('#play').textContent === 'Play'")
    for key, shift, now in [
        ("Home", False, 0),
        ("ArrowRight", True, 0.1),
        ("ArrowLeft", True, 0),
        ("ArrowLeft", True, 0),
    ]:
        page.press(key, shift)
        assert float(page.run(VALUES)[0]) == now
    page.press("End")
    assert page.run(VALUES)[0] == duration


@in_browser
def test_buttons_are_pressed_by_keys(page, recordings):
    transcribe(page, recordings / "short.wav")
    width = "parseFloat(document.querySelector('.track').style.width)"
    before = page.run(width)
    for selector, key in (("#zoom-in", "Enter"), ("#zoom-in", " ")):
        page.run(f"document.querySelector('{selector}').focus()")
        page.press(key)
    assert page.run(width) == pytest.approx(before * 2.25, rel=1e-3)
    page.run("document.querySelector('#save-wav').focus()")
    page.press(" ")
    assert page.downloaded("short.wav").stat().st_size > 1000
    assert page.run(IDLE)


def colours():
    """The colours of the style sheet, light and dark: name -> (red, green, blue) from 0 to 1."""
    css = (web.PAGE / "style.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): #(\w{6});", part)) for part in re.findall(r":root \{(.*?)\}", css, re.S)
    )
    return [
        {name: [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)] for name, value in part.items()}
        for part in (light, light | dark)
    ]


def contrast(one, other):
    """Ratio of WCAG 2.2, by relative luminance."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_wcags_aa():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    texts = [("text", "page"), ("text", "card"), ("muted", "page"), ("muted", "card")]
    texts += [("on-accent", "accent"), ("error", "error-page")]
    # The outline of the focus, the border of the primary button, the recording's dot, the cursor, the waveform.
    shapes = [("accent", "page"), ("accent", "card"), ("record", "card"), ("cursor", "card"), ("wave", "card")]
    for scheme in colours():
        for least, pairs in ((4.5, texts), (3, shapes)):
            for one, other in pairs:
                assert contrast(scheme[one], scheme[other]) >= least, (one, other)
        # A phone's letters, on the accent as it shines through at the highest confidence.
        tile = [0.42 * accent + 0.58 * card for accent, card in zip(scheme["accent"], scheme["card"])]
        assert contrast(scheme["text"], tile) >= 4.5

"""A report as one page: nothing is loaded from elsewhere, and it prints on a sheet of A4."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fetalclip_edge.checklist import ITEMS, CapturedPlane
from fetalclip_edge.pixels import encode_jpeg
from fetalclip_edge.report.chart import growth_chart
from fetalclip_edge.report.data import ExamReport, HeadPicture, Patient, Software
from fetalclip_edge.report.words import measurements
from fetalclip_edge.results import HeadOutline, StreamState
from fetalclip_edge.tasks.growth import chart_named
from fetalclip_edge.words import DISCLAIMER, percent

__all__ = ["report_html"]

_STYLE = Path(__file__).with_name("page.css")

_LONGEST_SIDE = 640
"""Pixels of a picture on the page: 4.5 cm at 360 dots an inch."""

_QUALITY = 88


def report_html(report: ExamReport) -> bytes:
    """The page, UTF-8. It holds no script."""
    return "\n".join(_page(report)).encode("utf-8")


def _page(report: ExamReport) -> Iterator[str]:
    created = f"{report.created:%d %B %Y, %H:%M}"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<title>Fetal ultrasound: exam report</title>"
    yield f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style></head><body>"
    yield (
        "<header><h1>Fetal ultrasound exam report</h1>"
        f"<p>{escape(created)}<br>Made by software, not verified by anybody</p></header>"
    )
    yield f'<p class="warning"><strong>{escape(DISCLAIMER)}</strong></p>'
    if report.patient is not None:
        yield from _patient(report.patient)
    yield from _measured(report)
    yield "<section><h2>Standard planes</h2>"
    yield '<div class="planes">'
    if report.head_picture is not None:
        yield _measured_picture(report.head_picture)
    for item in ITEMS:
        yield _plane(item, report.planes.get(item))
    yield "</div></section>"
    yield from _made(report)
    yield f"<footer>{escape(DISCLAIMER)} Every figure is an estimate by a model.</footer>"
    yield "</body></html>\n"


def _patient(patient: Patient) -> Iterator[str]:
    born = "" if patient.birth_date is None else patient.birth_date.isoformat()
    name = " ".join(part for part in patient.name.split("^") if part)
    facts = (("Patient", name), ("Identifier", patient.id), ("Born", born), ("Sex", patient.sex))
    yield '<dl class="patient">'
    for word, value in facts:
        if value:
            yield f"<div><dt>{word}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"


def _measured(report: ExamReport) -> Iterator[str]:
    yield '<section class="measured"><div><h2>Measurements</h2>'
    if report.head is None:
        yield f"<p>The head was not measured: {escape(report.head_reason or '')}.</p>"
    else:
        yield "<table><thead><tr><th></th><th></th><th>95 % interval</th></tr></thead><tbody>"
        for line in measurements(report):
            interval = escape(line.interval) or '<span class="quiet">not known</span>'
            how = f"<small>{escape(line.how)}</small>" if line.how else ""
            yield (
                f"<tr><th>{escape(line.name)}{how}</th>"
                f'<td class="value">{escape(line.value)}</td><td>{interval}</td></tr>'
            )
        yield "</tbody></table>"
        if report.age is None:
            reach = "The head is smaller or larger than the growth chart tells of."
            yield f'<p class="quiet">Gestational age withheld. {reach}</p>'
        else:
            yield (
                '<p class="quiet">The interval of the age is of growth and measurement together; '
                "that of the circumference is of measurement alone.</p>"
            )
    yield "</div>"
    if chart := growth_chart(report):
        title = chart_named(report.chart).title
        yield f"<div><h2>Head circumference, {escape(title)}</h2>{chart}"
        yield (
            '<p class="quiet">The age follows from the circumference, so the mark lies on the '
            "middle curve; the bar is the age's 95 % interval.</p></div>"
        )
    yield "</section>"


def _measured_picture(picture: HeadPicture) -> str:
    words = f"{picture.circumference_mm:.1f} mm on this picture"
    return _figure(picture.image, "Head as measured", words, outline=picture.outline)


def _plane(item: str, plane: CapturedPlane | None) -> str:
    name = item[0].upper() + item[1:]
    if plane is None:
        return (
            '<figure class="missing"><div class="picture">not seen</div>'
            f"<figcaption>{escape(name)}<small>no picture kept</small></figcaption></figure>"
        )
    how = ", chosen by hand" if plane.by_hand else ""
    return _figure(plane.image, name, f"confidence {percent(plane.score)}{how}")


def _figure(
    image: NDArray[np.uint8], name: str, words: str, *, outline: HeadOutline | None = None
) -> str:
    height, width = image.shape[:2]
    jpeg = base64.b64encode(encode_jpeg(image, _LONGEST_SIDE, _QUALITY)).decode("ascii")
    drawn = ""
    if outline is not None:
        drawn = (
            f'<ellipse rx="{outline.major / 2:.1f}" ry="{outline.minor / 2:.1f}" '
            f'transform="translate({outline.x:.1f} {outline.y:.1f}) '
            f'rotate({outline.angle_deg:.1f})"/>'
        )
    return (
        f'<figure><div class="picture"><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(name)}"><image width="{width}" height="{height}" '
        f'href="data:image/jpeg;base64,{jpeg}"/>{drawn}</svg></div>'
        f"<figcaption>{escape(name)}<small>{escape(words)}</small></figcaption></figure>"
    )


def _made(report: ExamReport) -> Iterator[str]:
    results = ", ".join(
        f"{report.states[state]} {state.replace('_', ' ')}"
        for state in map(str, StreamState)
        if state in report.states
    )
    facts = [("Frames", results or "none")]
    if (software := report.software) is not None:
        facts += _software(software)
    yield '<section><h2>How it was made</h2><dl class="made">'
    for word, value in facts:
        yield f"<div><dt>{escape(word)}</dt><dd>{escape(value)}</dd></div>"
    if software is None:
        yield "<div><dt>Model</dt><dd>one that does not say what it is</dd></div>"
    else:
        yield (
            '<div class="wide"><dt>Bundle sha256</dt><dd><code>'
            f"{escape(software.bundle_sha256)}</code></dd></div>"
        )
    yield "</dl></section>"
    if software is not None and software.limits:
        yield '<section><h2>Limits of the model, by its card</h2><ul class="limits">'
        for limit in software.limits:
            # Written for the model card, which is Markdown.
            yield f"<li>{escape(limit.replace('`', ''))}</li>"
        yield "</ul></section>"


def _software(software: Software) -> list[tuple[str, str]]:
    return [
        ("Software", f"fetalclip-edge {software.version}"),
        ("Model", f"{software.bundle_name} {software.bundle_version}"),
        (
            "Run by",
            f"{software.backend} {software.backend_version}, {software.precision}, "
            f"{software.device}",
        ),
    ]
